"""What a proof must be of: derived from the very file that is released, and from how the release is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError, shown
from effdet_model.nms_profiles import NmsProfile
from effdet_model.weights import metadata_path, read_metadata
from porting.files import file_sha256
from porting.official.catalog import find
from porting.version import TOOL, tool_version
from porting.weights.metadata import usage
from release.evidence import DIFF, PARITY, Expected
from verify.diff.evidence import diff_rule, evidence_input
from verify.diff.inputs import make_inputs
from verify.diff.options import DiffOptions
from verify.evaluation.coco import CocoDataset
from verify.evidence.digest import configuration_sha256, plain
from verify.evidence.record import Complaint
from verify.parity.evidence import DTYPE, RULE
from verify.reference.configuration.official import Hparams, declared_hparams, official_name

PROOF_DTYPE = "float64"
"""Of the diff: what is left then is not rounding."""


@dataclass(frozen=True)
class ReleasedWeights:
    """A weight file that says of itself what a release needs.

    Attributes:
        metadata: of the weight file, without its hash. sha256: of the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    config: EfficientDetConfig
    sha256: str

    @property
    def source(self) -> Mapping[str, Any]:
        """Where the weights come from."""
        return self.metadata["source"]


def released_weights(path: Path) -> ReleasedWeights:
    """A weight file and what it says of itself, checked part against part.

    Raises:
        InputError: no metadata, a part that contradicts the config, or a file that changed after its conversion.
    """
    metadata = read_metadata(path)
    if metadata is None or not {"variant", "config", "source"} <= set(metadata):
        raise InputError(
            f"weights {path}: expected metadata with variant, config and source (in {metadata_path(path).name}, or in "
            f"the header of a .safetensors), found {'none' if metadata is None else ', '.join(sorted(metadata))}; "
            "convert the checkpoint again."
        )
    sha256 = file_sha256(path)
    recorded = metadata.pop("weights_sha256", sha256)
    if recorded != sha256:
        raise InputError(
            f"weights {path}: expected SHA-256 {recorded} as its metadata says, found {sha256}; the file was changed "
            "after its conversion, convert the checkpoint again."
        )
    config = EfficientDetConfig.from_dict(metadata["config"], f"weights {path}: config ")
    source = metadata["source"]
    if not isinstance(source, dict):
        raise InputError(f"weights {path}: source: expected an object, found {shown(source)}; convert again.")
    _check_parts(path, metadata, config)
    return ReleasedWeights(path, metadata, config, sha256)


def common_of_file(weights: ReleasedWeights, image_size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What the record of every proof must say whoever made it: that it is of this file.

    Args:
        image_size: (height, width) of the proofs; the file's own by default.
    """
    own_family = official_name(weights.config.name)[1]
    return {
        "verdict": "passed",
        "variant": weights.config.name,
        "family": weights.source.get("family") or own_family,
        "weights_sha256": weights.sha256,
        "configuration_sha256": configuration_sha256(weights.metadata, weights.config),
        "overrides": {},
        "checkpoint_sha256": weights.source.get("sha256"),
        "variables": weights.source.get("variables"),
        "image_size": list(image_size or weights.config.image_size),
        "reference": "tensorflow",
        "versions": {TOOL: tool_version()},
    }


def expected_of_file(
    weights: ReleasedWeights, image_size: tuple[int, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Kind of proof -> what its record must say by today's rules, see `common_of_file`."""
    diff, common = DiffOptions(dtype=PROOF_DTYPE), common_of_file(weights, image_size)
    return {
        DIFF: {**common, "dtype": PROOF_DTYPE, "rule": diff_rule(diff), "tolerance": diff.limit},
        PARITY: {**common, "dtype": DTYPE, "rule": RULE, "tolerance": None},
    }


def expected_of_diff(config: EfficientDetConfig, options: DiffOptions) -> Expected:
    """What the record of a diff says of its inputs, of what the user declared, and of what it runs with."""
    size = options.image_size or config.image_size
    inputs = make_inputs(config.replace(image_size=size), options.images, options.noise_seeds)
    return {
        "versions": versions(),
        "hparams": plain(declared_hparams(options.hparams)),
        "inputs": [dataclasses.asdict(evidence_input(item)) for item in inputs],
    }


def expected_of_parity(dataset: CocoDataset, profile: NmsProfile, hparams: Hparams) -> Expected:
    """The same of a parity run."""
    return {
        "versions": versions(),
        "hparams": plain(hparams or {}),
        "nms": plain(dataclasses.asdict(profile)),
        "inputs": [
            {"name": image.path.name, "kind": "image", "sha256": file_sha256(image.path), "seed": None}
            for image in dataset.images
        ],
        "annotations_sha256": file_sha256(dataset.source) if dataset.source else None,
    }


def versions() -> dict[str, str]:
    """Of this tool and of what both frameworks' runs rest on, as installed here."""
    import numpy
    import timm
    import torch

    modules = {"torch": torch, "timm": timm, "numpy": numpy}
    found = {TOOL: tool_version(), **{name: str(module.__version__) for name, module in modules.items()}}
    for package in ("tensorflow", "tensorflow-cpu"):
        try:
            return {**found, "tensorflow": version(package)}
        except PackageNotFoundError:
            continue
    return found


def complaint_of(kind: str, path: Path, weights: ReleasedWeights, image_size: tuple[int, int] | None) -> Complaint:
    """How a proof is refused: for which file, and the command that makes a right one."""
    size = f" --image-size {image_size[0]}x{image_size[1]}" if image_size else ""
    how = f"--dtype {PROOF_DTYPE}" if kind == DIFF else "--images DIR"
    command = f"python cli.py {kind} --weights {weights.path} --checkpoint ... {how}{size} --report {path.parent}"
    return Complaint(f"release of {weights.config.name}: {path}", command)


def _check_parts(path: Path, metadata: Mapping[str, Any], config: EfficientDetConfig) -> None:
    """Anchors, preprocessing, suppression and classes stand in the metadata twice; both must say the same."""
    family = metadata["source"].get("family")
    published = find(config.name, family).nms_profile if family else None
    for name, wanted in {"variant": config.name, **usage(config, published)}.items():
        if plain(metadata.get(name)) != plain(wanted):
            found: Any = metadata.get(name)
            if isinstance(wanted, dict) and isinstance(found, dict):
                key = next((key for key in [*wanted, *found] if plain(wanted.get(key)) != plain(found.get(key))), "")
                name, wanted, found = f"{name}.{key}", wanted.get(key), found.get(key)
            raise InputError(
                f"weights {path}: metadata {name}: expected {shown(wanted)}, which its config says, found "
                f"{shown(found)}; the metadata were changed, convert the checkpoint again."
            )
