"""From a trainer's file to a weight file to publish."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError
from effdet_model.factory import resolve_config
from effdet_model.weights import WEIGHT_SUFFIXES, load_into, read_metadata, read_weights
from porting.recognise.files import weight_settings
from porting.weights.files import check_output, file_sha256, write_weights
from training.records.state import trained_metadata

_HASH = 8
"""Characters of the hash in a name, as torch.hub and effdet's releases have it."""


@dataclass(frozen=True)
class Cleaned:
    """A weight file that has been written. tensors: how many. notes: what was done, in sentences."""

    output: Path
    sha256: str
    tensors: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "output": str(self.output), "sha256": self.sha256, "tensors": self.tensors, "notes": list(self.notes),
        }  # fmt: skip


def clean_weights(
    weights: Path, output: Path | None = None, variant: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Cleaned:
    """Write the tensors of one model alone, with metadata, under a name that ends in the hash of the tensors.

    Args:
        weights: last.pth, training_state.pth's neighbours, or any file that `create_model` takes: effdet's checkpoints
            too, whose moving averages are taken.
        output: a file, whose name gets the hash, or a folder.

    Raises:
        InputError: the file cannot be read, or it is not certain what it is.
    """
    settings = weight_settings(weights, variant, overrides)
    loaded = read_weights(weights)
    config = resolve_config(settings.variant, weights, **settings.overrides)
    with torch.device("meta"):
        model = EfficientDet(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in loaded.state_dict.items()}
    if shapes != found:
        load_into(model, loaded.state_dict, weights)  # which says what differs
    bad = [name for name, tensor in loaded.state_dict.items() if not bool(torch.isfinite(tensor.double()).all())]
    if bad:
        raise InputError(
            f"weights {weights}: expected finite values, found NaN or Inf in {len(bad)} tensors ({bad[0]}); this "
            "training failed, take an earlier file."
        )
    state_dict = {name: loaded.state_dict[name].contiguous().clone() for name in shapes}
    metadata = read_metadata(weights) or {}
    if "config" not in metadata:
        origin = {"weights": weights.name, "weights_sha256": file_sha256(weights), "variables": "unknown"}
        metadata = trained_metadata(config, origin)
    metadata.pop("weights_sha256", None)
    path = _named(weights, output, _hash(state_dict))
    check_output(path)
    digest = write_weights(path, state_dict, metadata)
    return Cleaned(path, digest, len(state_dict), (*settings.notes, *loaded.notes))


def _hash(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Of names, shapes and values, in order; the same for every kind of file."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _named(weights: Path, output: Path | None, digest: str) -> Path:
    target = output if output is not None else weights.with_name(weights.name)
    if target.is_dir():
        target = target / weights.name
    if target.suffix not in WEIGHT_SUFFIXES:
        raise InputError(f"--output {target}: expected a folder or a name that ends in {' or '.join(WEIGHT_SUFFIXES)}.")
    return target.with_name(f"{target.stem}-{digest[:_HASH]}{target.suffix}")
