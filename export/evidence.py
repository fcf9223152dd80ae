"""The record of an export: what was held against what, of which files."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.nms_profiles import NmsProfile
from export.options import ExportOptions
from export.runtimes import runtime_version
from export.truth import Truth
from porting.files import file_sha256
from porting.version import TOOL, tool_version
from verify.diff.comparison import MULTIPLE
from verify.evidence.digest import changed_fields, configuration_sha256, plain, sha256_of
from verify.evidence.record import Evidence, EvidenceInput
from verify.reference.configuration.official import declared_hparams

BOX_PIXELS, SCORE = 1e-3, 1e-5
"""What a detection may differ from the project's suppression of the same levels."""


def export_evidence(
    options: ExportOptions, truth: Truth, metadata: Mapping[str, Any] | None, config: EfficientDetConfig,
    profile: NmsProfile | None, weights_sha256: str, inputs: Sequence[EvidenceInput], files: Sequence[Path],
    passed: bool,
) -> Evidence | None:
    """The record of one export; None where the weights do not say what they were made from.

    Args:
        metadata: of the weight file. config: what was exported. files: the exported file first.
    """
    source = (metadata or {}).get("source")
    source = source if isinstance(source, Mapping) else {}
    checkpoint = truth.checkpoint_sha256 or source.get("sha256")
    if checkpoint is None:
        return None
    return Evidence(
        kind="export", verdict="passed" if passed else "failed", rule=export_rule(profile, options.half),
        tolerance=None, variant=config.name, family=truth.family or source.get("family"),
        weights_sha256=weights_sha256, checkpoint_sha256=str(checkpoint),
        configuration_sha256=configuration_sha256(metadata, config), overrides=changed_fields(metadata, config),
        variables=truth.variables or str(source.get("variables")), image_size=config.image_size,
        dtype="float16" if options.half else "float32", reference=truth.kind,
        versions={**export_versions(options.format), **truth.versions},
        hparams=plain(declared_hparams(options.hparams)),
        nms=plain(dataclasses.asdict(profile)) if profile else None, inputs=tuple(inputs),
        subject_sha256=subject_sha256(files),
    )  # fmt: skip


def export_rule(profile: NmsProfile | None, half: bool = False) -> str:
    """What a passed proof allows, in words."""
    precision = "float16" if half else "float32"
    levels = f"every level within {MULTIPLE:g} times the distance of {precision} from float64"
    if profile is None:
        return f"{levels}, one image and several at once"
    return (
        f"{levels}; every detection within {BOX_PIXELS:g} pixels and {SCORE:g} of score of the project's own "
        "suppression, one image and several at once, images without detections among them"
    )


def export_versions(format_name: str) -> dict[str, str]:
    """Of this tool, of what wrote the file and of what ran it, as installed here."""
    import timm
    import torch

    runtime, _, version = runtime_version(format_name).partition(" ")
    packages = {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__, runtime: version}
    return {TOOL: tool_version(), **packages}


def subject_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of an exported file; of one that has several parts, of their hashes by suffix."""
    if len(files) == 1:
        return file_sha256(files[0])
    return sha256_of({path.suffix: file_sha256(path) for path in files})


def evidence_input(kind: str, seed: int, image: np.ndarray) -> EvidenceInput:
    """An input as a record has it.

    Args:
        kind: "drawn" or "noise". image: what the network gets, float32 [C, H, W].
    """
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return EvidenceInput(f"{kind}-{seed}", kind, digest, seed)
