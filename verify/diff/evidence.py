"""The record of a diff: what it proves, of which files, with what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effdet_model.config import EfficientDetConfig
from porting.files import file_sha256
from porting.version import TOOL
from verify.diff.comparison import MULTIPLE
from verify.diff.inputs import DiffInput
from verify.diff.options import DiffOptions
from verify.diff.result import DiffResult, InputResult
from verify.evidence.digest import changed_fields, configuration_sha256, folder_sha256, plain
from verify.evidence.record import Evidence, EvidenceInput
from verify.reference.configuration.official import declared_hparams


def diff_evidence(
    result: DiffResult, options: DiffOptions, metadata: Mapping[str, Any] | None, config: EfficientDetConfig
) -> Evidence:
    """The record of a result that has the checksums of its files.

    Args:
        metadata: of the weight file. config: what the port ran with.
    """
    environment = result.environment
    kind, _, folder = options.reference.partition(":")
    versions = {name: str(environment[name]) for name in (TOOL, "torch", "timm", "numpy")}
    if "reference_tensorflow" in environment:  # a port that could not run is found wrong before TensorFlow is asked
        versions["tensorflow"] = str(environment["reference_tensorflow"])
    return Evidence(
        kind="diff", verdict=result.outcome, rule=diff_rule(options),
        tolerance=result.tolerance, variant=result.variant, family=result.reference_config.get("family"),
        weights_sha256=environment["weights_sha256"], checkpoint_sha256=environment["checkpoint_sha256"],
        configuration_sha256=configuration_sha256(metadata, config), overrides=changed_fields(metadata, config),
        variables=result.variables, image_size=result.image_size, dtype=result.dtype,
        reference=kind, reference_sha256=_reference_sha256(kind, folder),
        versions=versions, hparams=plain(declared_hparams(options.hparams)),
        inputs=tuple(map(evidence_input, result.inputs)),
    )  # fmt: skip


def diff_rule(options: DiffOptions) -> str:
    """What a passed diff allows, in words."""
    layers = f"{MULTIPLE:g} times TensorFlow's own distance from its float64"
    if not options.truth:
        layers = f"{options.limit:g} relative"
    how = ", each on TensorFlow's own input" if options.isolate else ""
    return (
        f"every layer within {layers}{how}; every value of every tensor equal to the bit; no difference of "
        "configuration but what was declared"
    )


def evidence_input(item: DiffInput | InputResult) -> EvidenceInput:
    """An input as a record has it: an image by its file, the others by their values."""
    seed = int(item.name.rpartition("-")[2]) if item.kind != "image" else None
    return EvidenceInput(item.name, item.kind, item.file_sha256 or item.sha256, seed)


def _reference_sha256(kind: str, folder: str) -> str | None:
    if kind == "tensorflow":
        return None
    if kind == "tflite":
        return file_sha256(Path(folder))
    return folder_sha256(Path(folder), "*.py" if kind == "automl" else "*")
