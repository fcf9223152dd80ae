"""The record: what was proved of which files, with what, and how it ended."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from effdet_model.errors import InputError, shown
from verify.evidence.digest import REPORT_SHA256, plain

SCHEMA_VERSION = 1
KINDS = ("diff", "parity", "export")
VERDICTS = ("passed", "failed", "inconclusive")
INPUT_KINDS = ("image", "drawn", "noise")
DTYPES = ("float64", "float32", "float16", "bfloat16")
REFERENCES = ("tensorflow", "automl", "savedmodel", "tflite", "pytorch")
"""This project's own network in TensorFlow, a clone of google/automl, exported models; "pytorch" of an export."""

Verdict = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class EvidenceInput:
    """One input of a proof.

    Attributes:
        name: file name, "drawn-SEED" or "noise-SEED". kind: one of `INPUT_KINDS`.
        sha256: of an image's file; of the network's input, float32 [1, 3, H, W] in C order, for the others.
        seed: of drawn pictures and noise; None for files.
    """

    name: str
    kind: str
    sha256: str
    seed: int | None = None


@dataclass(frozen=True)
class Evidence:
    """One proof, bound to its files and settings; equal records prove the same.

    Attributes:
        kind: one of `KINDS`. verdict: one of `VERDICTS`. rule: what the verdict allows, in words.
        tolerance: the largest relative difference, where that is a number.
        variant: e.g. "d0". family: the official release whose day counts, None for today's code.
        weights_sha256: of the weight file. checkpoint_sha256: of what it was made from.
        configuration_sha256: see `verify.evidence.digest.configuration_sha256`.
        overrides: config fields in which the run differed from that configuration, the image size aside.
        variables: "ema" or "raw": which values of the checkpoint the reference took.
        image_size: (height, width) of the run. dtype: of the port in it.
        reference: one of `REFERENCES`. reference_sha256: of a clone's or exported model's files, else None.
        versions: of the tool and of what it ran with, by name.
        hparams: what the user declared of the training.
        nms: the suppression profile, field by field; None where nothing was suppressed.
        inputs: in their order. annotations_sha256: of the annotation file, None without.
        subject_sha256: of an exported file (or folder) that was held against the weights; else None.
    """

    kind: str
    verdict: str
    rule: str
    tolerance: float | None
    variant: str
    family: str | None
    weights_sha256: str
    configuration_sha256: str
    checkpoint_sha256: str
    variables: str
    image_size: tuple[int, int]
    dtype: str
    reference: str
    versions: Mapping[str, str]
    inputs: tuple[EvidenceInput, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    reference_sha256: str | None = None
    hparams: Mapping[str, Any] = field(default_factory=dict)
    nms: Mapping[str, Any] | None = None
    annotations_sha256: str | None = None
    subject_sha256: str | None = None
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain data, as `parse_evidence` reads it."""
        return plain(dataclasses.asdict(self))


@dataclass(frozen=True)
class Complaint:
    """Where a record stands and how to make a right one, for the message that refuses it.

    Attributes:
        where: the report and what it is for. again: the command to run.
    """

    where: str
    again: str

    def error(self, name: str, expected: str, found: Any) -> InputError:
        """One field that is not as it must be; `found` is a value, shown cut short."""
        return self.told(name, expected, "none" if found is None else shown(found))

    def told(self, name: str, expected: str, found: str) -> InputError:
        """The same, with `found` in words."""
        return InputError(f"{self.where}: {name}: expected {expected}, found {found}; run `{self.again}`.")


def parse_evidence(data: Any, complaint: Complaint) -> Evidence:
    """The record from plain data; every field there, of its type, and in agreement with the others.

    Raises:
        InputError: names the field, what was expected and found, and the command to run.
    """
    if not isinstance(data, Mapping):
        raise complaint.error("evidence", f"a record of schema version {SCHEMA_VERSION}", data)
    version = data.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise complaint.error("evidence.schema_version", f"{SCHEMA_VERSION}, which this version reads", version)
    known = [item.name for item in dataclasses.fields(Evidence)]
    unknown = sorted(str(key) for key in data if key not in known and key != REPORT_SHA256)
    if unknown:
        raise complaint.told("evidence", "no other fields than those of its schema", f"{shown(unknown[0])} as well")
    for name in known:
        expected, good = _FIELDS[name]
        if name not in data:
            raise complaint.told(f"evidence.{name}", expected, "no such field")
        if not good(data[name]):
            raise complaint.error(f"evidence.{name}", expected, data[name])
    values = {name: data[name] for name in known}
    values["inputs"] = tuple(EvidenceInput(**item) for item in data["inputs"])
    values["image_size"] = tuple(data["image_size"])
    record = Evidence(**values)
    _check_together(record, complaint)
    return record


def _check_together(record: Evidence, complaint: Complaint) -> None:
    """Refuse fields that are sound alone and contradict each other."""

    def check(good: bool, name: str, expected: str) -> None:
        if not good:
            raise complaint.error(f"evidence.{name}", expected, getattr(record, name))

    own = record.reference in ("tensorflow", "pytorch")
    check(record.reference != "pytorch" or record.kind == "export", "reference", f"that of a {record.kind} report")
    check(own == (record.reference_sha256 is None), "reference_sha256", f"what belongs to reference {record.reference}")
    check((record.kind == "export") == (record.subject_sha256 is not None), "subject_sha256",
          f"what belongs to {record.kind}")  # fmt: skip
    check(record.kind != "parity" or record.nms is not None, "nms", "the suppression profile of a parity run")
    check(record.kind != "diff" or record.nms is None, "nms", "none in a diff, which suppresses nothing")
    check(record.kind == "parity" or record.annotations_sha256 is None, "annotations_sha256", "none but in parity")
    check(record.verdict != "passed" or bool(record.inputs), "inputs", "at least one input of what passed")


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1000


def _sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _versions(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= 50 and {"effdet-port", "torch"} <= set(value) and all(
        map(_text, value.values())
    )


def _inputs(value: Any) -> bool:
    return isinstance(value, list) and all(map(_input, value))


def _input(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"name", "kind", "sha256", "seed"}:
        return False
    seed, seeded = value["seed"], value["kind"] in ("drawn", "noise")
    sound = _text(value["name"]) and value["kind"] in INPUT_KINDS and _sha256(value["sha256"])
    if not seeded:
        return sound and seed is None
    return sound and type(seed) is int and seed >= 0 and value["name"] == f"{value['kind']}-{seed}"


def _one_of(names: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names


def _or_none(rule: tuple[str, Callable[[Any], bool]]) -> tuple[str, Callable[[Any], bool]]:
    expected, good = rule
    return f"{expected}, or null", lambda value: value is None or good(value)


_TEXT = "a text of at most 1000 characters", _text
_HASH = "a SHA-256 of 64 lower-case hex digits", _sha256
_OBJECT = "an object of names and values", _object
_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "schema_version": (str(SCHEMA_VERSION), lambda value: value == SCHEMA_VERSION),
    "kind": _one_of(KINDS),
    "verdict": _one_of(VERDICTS),
    "rule": _TEXT,
    "tolerance": _or_none(("a number >= 0", _number)),
    "variant": _TEXT,
    "family": _or_none(_TEXT),
    "weights_sha256": _HASH,
    "configuration_sha256": _HASH,
    "checkpoint_sha256": _HASH,
    "overrides": _OBJECT,
    "variables": _one_of(("ema", "raw")),
    "image_size": ("[height, width] in pixels", _size),
    "dtype": _one_of(DTYPES),
    "reference": _one_of(REFERENCES),
    "reference_sha256": _or_none(_HASH),
    "versions": ("versions by name, effdet-port and torch among them", _versions),
    "hparams": _OBJECT,
    "nms": _or_none(_OBJECT),
    "inputs": ("a list of inputs, each with name, kind, sha256 and seed that belong together", _inputs),
    "annotations_sha256": _or_none(_HASH),
    "subject_sha256": _or_none(_HASH),
}
