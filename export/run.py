"""One export: checked, written, run, proved, named."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.efficientdet import EfficientDet
from effdet_model.factory import create_model
from effdet_model.nms_profiles import NmsProfile
from effdet_model.weights import read_metadata
from export.evidence import export_evidence
from export.graph.tensorrt import NOT_RUN
from export.metadata import file_metadata
from export.network import ExportedNetwork
from export.options import ExportOptions, check_options, companions, proof_path, suppression
from export.proof import Check, prove, proved_inputs
from export.runtimes import runtime_version
from export.truth import check_truth, opened_truth
from export.write import Job, write
from porting.files import atomic_write, file_sha256, sync_folder
from verify.evidence.seal import sealed

UNPROVED = ".unproved"
Report = Callable[[str], None]
"""Told in words what is being worked on."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: the file first, and what belongs to it. proof: the record beside it.
        checks: all that was compared. record: what the proof's file has.
    """

    files: tuple[Path, ...]
    proof: Path
    checks: tuple[Check, ...]
    record: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the file has the name that was asked for."""
        return bool(self.record["passed"])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"files": [str(path) for path in self.files], "proof": str(self.proof), **self.record}


def export(options: ExportOptions, report: Report = lambda text: None) -> Exported:
    """Write a file for another runtime and prove it; one that fails gets `UNPROVED` behind its name.

    Raises:
        InputError: wrong use, weights that do not fit, a package that is missing, or a folder that cannot be written.
    """
    check_options(options)
    _check_folder(options)
    settings = dict(options.overrides)
    if options.image_size is not None:
        settings["image_size"] = options.image_size
    model = create_model(options.variant, weights=options.weights, **settings)
    return export_model(model, options, report)


def export_model(model: EfficientDet, options: ExportOptions, report: Report = lambda text: None) -> Exported:
    """The same with the weights' model at hand; its image size counts."""
    started = time.perf_counter()
    config = model.config
    chosen = suppression(config, options.nms)
    check_truth(options.checkpoint, config)
    weights_sha256 = file_sha256(options.weights)
    of_weights = read_metadata(options.weights)
    source = (of_weights or {}).get("source")
    metadata = file_metadata(
        config, chosen, options.kind, options.batch, options.half, weights_sha256,
        source if isinstance(source, dict) else None,
    )  # fmt: skip
    network = ExportedNetwork(model, options.kind, options.half)
    job = Job(network, config, options.kind, options.batch, chosen, metadata)
    with (
        opened_truth(model, options.checkpoint, options.half, options.hparams, options.family) as truth,
        _staging(options.output) as staging,
    ):
        report("writing")
        files = write(job, options.format, staging / options.output.name)
        report("proving")
        checks = prove(job, options.format, files[0], truth, report)
        record = _record(options, metadata, truth.name, checks, files, time.perf_counter() - started)
        evidence = export_evidence(
            options, truth, of_weights, config, chosen if isinstance(chosen, NmsProfile) else None, weights_sha256,
            proved_inputs(config, options.kind, options.batch), files, record["passed"],
        )  # fmt: skip
        record = sealed(record, evidence, "passed" if record["passed"] else "failed")
        return _put_in_place(options, files, checks, record)


def _check_folder(options: ExportOptions) -> None:
    for path in (options.output, *companions(options)):
        with contextlib.suppress(_Probe), atomic_write(path):
            raise _Probe


class _Probe(Exception):
    """Leaves `atomic_write` without writing."""


@contextlib.contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A folder beside the output, gone in the end."""
    folder = output.with_name(f".{output.name[:100]}.{secrets.token_hex(8)}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _record(
    options: ExportOptions, metadata: dict[str, Any], reference: str, checks: list[Check], files: list[Path],
    seconds: float,
) -> dict[str, Any]:
    import torch

    passed = bool(checks) and all(check.passed for check in checks)
    given = metadata["suppression"] is not None
    not_run = given and metadata["note"] == NOT_RUN
    return {
        "kind": "export",
        "passed": passed,
        "verdict": _verdict(passed, checks, options, reference, not_run),
        "format": options.format,
        "reference": reference,
        "runtime": runtime_version(options.format),
        "files": {path.name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for path in files},
        "weights_sha256": metadata["weights_sha256"],
        "image_size": list(metadata["preprocessing"]["image_size"]),
        "detections_not_run": not_run,
        "checks": [
            {"name": check.name, "passed": check.passed, "text": check.text, **check.data} for check in checks
        ],
        "environment": {
            "torch": torch.__version__, "python": platform.python_version(), "platform": platform.platform()
        },
        "seconds": seconds,
        "metadata": metadata,
    }


def _verdict(passed: bool, checks: list[Check], options: ExportOptions, reference: str, not_run: bool) -> str:
    if not passed:
        bad = next((check for check in checks if not check.passed), None)
        return f"Not proved: {bad.name}: {bad.text}." if bad else "Not proved: nothing was compared."
    what = f"{len(checks)} of {len(checks)} checks passed against {reference}"
    return f"Proved: {what}.{f' {NOT_RUN}' if not_run else ''}"


def _put_in_place(options: ExportOptions, files: list[Path], checks: list[Check], record: dict[str, Any]) -> Exported:
    ending = "" if record["passed"] else UNPROVED
    named = []
    for path in reversed(files):  # what a reader opens comes last
        target = options.output.with_name(path.name + ending)
        with open(path, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(path, target)
        named.append(target)
    sync_folder(options.output.absolute().parent)
    proof = options.output.with_name(proof_path(options.output).name + ending)
    with atomic_write(proof) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return Exported(tuple(reversed(named)), proof, tuple(checks), record)


