"""A report with its record: nothing is taken from a report whose parts do not say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError, shown
from effdet_model.plain_data import read_json
from porting.version import TOOL
from verify.evidence.digest import EVIDENCE, REPORT_SHA256, plain, report_sha256
from verify.evidence.record import Complaint, Evidence, parse_evidence

_COPIES = {
    "diff": (
        "variant", "weights_sha256", "checkpoint_sha256", "variables", "image_size", "dtype", "tolerance",
    ),
    "parity": ("variant", "weights_sha256", "checkpoint_sha256", "variables", "image_size", "nms"),
    "export": ("weights_sha256", "image_size"),
}  # fmt: skip
"""Fields that a report of a kind also has outside its record, at its top level or under `environment`."""
_VERSION_NAMES = {TOOL: TOOL, "torch": "torch", "timm": "timm", "numpy": "numpy", "tensorflow": "reference_tensorflow"}
"""Names of versions in the record, and under `environment`."""


@dataclass(frozen=True)
class Report:
    """A report whose record was checked against the rest of it.

    Attributes:
        data: all of it, as it stands. record: its record.
    """

    path: Path
    data: Mapping[str, Any]
    record: Evidence

    @property
    def sha256(self) -> str:
        """Of what it says; its page has it too."""
        return str(self.data[EVIDENCE][REPORT_SHA256])

    @property
    def verdict(self) -> str:
        """Its own sentence; the record's word where it has none."""
        return str(self.data.get("verdict") or self.record.verdict)


def read_report(path: Path, kind: str, complaint: Complaint) -> Report:
    """A report and its record, strictly: one schema, and record and report in agreement.

    Raises:
        InputError: missing, damaged, of another kind or schema, or edited; the message names field and command.
    """
    data = _read(path, kind, complaint)
    if EVIDENCE not in data:
        raise complaint.told("evidence", f"a record in this {kind}", "none, as older versions wrote it")
    record = parse_evidence(data[EVIDENCE], complaint)
    if record.kind != kind:
        raise complaint.error("evidence.kind", kind, record.kind)
    _check_verdict(data, record, complaint)
    for name, reported, recorded in _copies(data, record):
        if reported != recorded:
            raise complaint.told(
                f"evidence.{name}", f"{shown(reported)}, which the rest of the report says", shown(recorded)
            )
    found, digest = data[EVIDENCE].get(REPORT_SHA256), report_sha256(data)
    if found != digest:
        raise complaint.told(
            f"evidence.{REPORT_SHA256}", f"{digest}, the hash of what the report says", f"{shown(found)}: it was edited"
        )
    return Report(path, data, record)


def _read(path: Path, kind: str, complaint: Complaint) -> dict[str, Any]:
    try:
        data = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise complaint.told(kind, "a report", "no such file") from error
    except (OSError, InputError) as error:
        raise complaint.told(kind, "a report in JSON", " ".join(str(error).split())[:200]) from error
    if not isinstance(data, dict):
        raise complaint.error(kind, "a report as a JSON object", data)
    return data


def _check_verdict(data: Mapping[str, Any], record: Evidence, complaint: Complaint) -> None:
    """The record's verdict against what the report says of itself, word by word and finding by finding."""
    passed = data.get("passed")
    if passed is not (record.verdict == "passed"):
        raise complaint.told("evidence.verdict", f"what goes with passed = {shown(passed)}", shown(record.verdict))
    outcome = data.get("outcome")
    if outcome is None and "inconclusive" in data:
        outcome = "passed" if passed else "inconclusive" if data["inconclusive"] is True else "failed"
    if outcome is not None and outcome != record.verdict:
        raise complaint.told("evidence.verdict", f"{shown(outcome)}, as the report", shown(record.verdict))
    against = next(_findings(data, record), None) if record.verdict == "passed" else None
    if against is not None:
        raise complaint.told("evidence.verdict", "one that the report's findings bear out", f"'passed', but {against}")


def _findings(data: Mapping[str, Any], record: Evidence) -> Iterator[str]:
    """What in a report speaks against having passed."""
    for name in ("failures", "doubts"):
        if data.get(name):
            first = data[name][0] if isinstance(data[name], list) else data[name]
            yield f"{name}: {shown(first)}"
    if data.get("first_divergent_layer") is not None:
        yield f"first_divergent_layer = {shown(data['first_divergent_layer'])}"
    for item in _objects(data.get("config_differences")):
        if item.get("declared") is not True:
            yield f"configuration differs in {shown(item.get('field'))}"
    for name in ("layers", "stages"):
        items = data.get(name)
        if name in data and (not isinstance(items, list) or not items):
            yield f"{name} = {shown(items)}"
        for item in _objects(items):
            if item.get("ok") is not True:
                yield f"{name}: {shown(item.get('name'))} is not ok"
    if record.kind == "export":
        checks = _objects(data.get("checks"))
        if not checks:
            yield "checks = none"
        for item in checks:
            if item.get("passed") is not True:
                yield f"checks: {shown(item.get('name'))} is not passed"
    if record.kind == "diff":
        largest, tensors = data.get("max_rel"), data.get("tensors")
        if not isinstance(largest, int | float) or (record.tolerance is not None and not largest <= record.tolerance):
            yield f"max_rel = {shown(largest)}"
        if not isinstance(tensors, Mapping) or tensors.get("ok") is not True:
            yield "tensors are not proved equal"
        elif tensors.get("equal") != tensors.get("compared") or tensors.get("differing"):
            yield f"tensors: {shown(tensors.get('equal'))} of {shown(tensors.get('compared'))} equal"


def _copies(data: Mapping[str, Any], record: Evidence) -> Iterator[tuple[str, Any, Any]]:
    """(field, the report's value, the record's) of everything that both have."""
    environment = data.get("environment")
    around: Mapping[str, Any] = environment if isinstance(environment, Mapping) else {}
    fields = record.to_json()
    for name in _COPIES[record.kind]:
        yield name, data.get(name, around.get(name)), fields[name]
    if record.kind == "diff":
        yield "reference", str(data.get("reference")).partition(":")[0], record.reference
    for name, there in _VERSION_NAMES.items():
        if record.kind != "export" and (name in record.versions or there in around):
            yield f"versions.{name}", around.get(there), record.versions.get(name)
    yield from _inputs(data, record)


def _inputs(data: Mapping[str, Any], record: Evidence) -> Iterator[tuple[str, Any, Any]]:
    if record.kind == "diff":
        reported = [
            (item.get("name"), item.get("kind"), item.get("file_sha256") or item.get("sha256"))
            for item in _objects(data.get("inputs"))
        ]
    elif record.kind == "parity":
        reported = [(item.get("file_name"), "image", item.get("sha256")) for item in _objects(data.get("images"))]
    else:
        return
    recorded = [(item.name, item.kind, item.sha256) for item in record.inputs]
    yield "inputs: how many", len(reported), len(recorded)
    for one, other in zip(reported, recorded, strict=True):
        yield f"inputs: {shown(one[0])}", plain(one), plain(other)


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
