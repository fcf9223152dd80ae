"""Weight files: .pth (a plain state_dict, metadata beside it as .json) and .safetensors (metadata in its header)."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet_model.errors import InputError, shown
from effdet_model.plain_data import parse_json, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

METADATA_KEY = "effdet_port"
"""Under this key the safetensors header has the metadata, as JSON text."""

WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")


def metadata_path(weights: Path) -> Path:
    """Where the metadata of a .pth lies: d0.json beside d0.pth."""
    return weights.with_suffix(".json")


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """What a weight file says of itself; None where it says nothing.

    Raises:
        InputError: the file or its metadata cannot be read.
    """
    path = _existing(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(METADATA_KEY)
        except SafetensorError as error:
            raise _unreadable(path, "a safetensors file", error) from error
        return parse_metadata(text, path) if text is not None else None
    beside = metadata_path(path)
    if not beside.exists():
        return None
    parsed = _object(read_json(beside), beside)
    return _checked(parsed, beside) if "format_version" in parsed else None


def check_pairing(weights: str | Path, metadata: Mapping[str, Any] | None) -> None:
    """Make sure that metadata beside a .pth was written for these very bytes; a header's own needs no check.

    `d0.pt` and `d0.pth` share `d0.json`, and a file may be replaced beside it: then anchors, classes and
    preprocessing are those of other weights.

    Raises:
        InputError: the metadata's `weights_sha256` is that of another file.
    """
    path = Path(weights)
    if metadata is None or "weights_sha256" not in metadata or path.suffix == ".safetensors":
        return
    expected, found = str(metadata["weights_sha256"]), _sha256(path)
    if expected.lower() != found:
        beside = metadata_path(path)
        raise InputError(
            f"weights {path}: expected the file that {beside.name} beside it was written for (SHA-256 "
            f"{expected[:16]}...), found another one ({found[:16]}...); put the right .json there, or move "
            f"{beside.name} away or rename {path.name} and name the variant."
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, "a readable file", error) from error
    return digest.hexdigest()


def read_state_dict(path: str | Path, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a weight file, on the CPU. Nothing is ever unpickled beyond tensors.

    Args:
        mapped: leave the tensors of a .pth in the file, mapped into memory, instead of copying them.

    Raises:
        InputError: no such file, damaged, or not a dictionary of tensors.
    """
    path = _existing(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise _unreadable(path, "a safetensors file", error) from error
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise _unreadable(path, "a PyTorch state_dict of plain tensors", error) from error
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise InputError(
            f"weights {path}: expected a plain state_dict (names to tensors), found {_describe(loaded)}; "
            "save model.state_dict() alone."
        )
    return loaded


def load_into(model: nn.Module, state_dict: dict[str, Tensor], source: str | Path) -> None:
    """Copy tensors into a model, strictly.

    Raises:
        InputError: a name is missing or extra, or a shape differs; the message lists them.
    """
    own = model.state_dict()
    missing = sorted(set(own) - set(state_dict))
    extra = sorted(set(state_dict) - set(own))
    shapes = sorted(
        f"{name} {list(state_dict[name].shape)} instead of {list(own[name].shape)}"
        for name in set(own) & set(state_dict)
        if own[name].shape != state_dict[name].shape
    )
    if missing or extra or shapes:
        parts = [
            f"{len(names)} {what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
            if names
        ]
        raise InputError(
            f"weights {source} do not fit this model: expected {len(own)} tensors by exact name and shape, found "
            f"{'; '.join(parts)}. Name the variant (and class count, anchors) that the weights were made for."
        )
    model.load_state_dict(state_dict, strict=True)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path}: expected a .pth or .safetensors file, found none; check the path.")
    return path


def parse_metadata(text: str, path: Path) -> dict[str, Any]:
    """The metadata that a weight file has as text.

    Raises:
        InputError: no JSON object, too large or deep, or without the parts that everything else relies on.
    """
    return _checked(_object(parse_json(text, str(path)), path), path)


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected metadata as a JSON object, found {_describe(value)}.")
    return value


def _checked(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    for key, kind, what in (("config", dict, "config fields with their values"), ("variant", str, "a name")):
        value = metadata.get(key)
        if key in metadata and (not isinstance(value, kind) or len(value) > 100):
            raise InputError(
                f"{path}: expected metadata with {what} under {key!r}, found {shown(value)}; the file is damaged or of "
                "another kind."
            )
    return metadata


def _unreadable(path: Path, expected: str, error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0][:200]
    return InputError(
        f"{path}: expected {expected}, found: {reason}; the file is damaged or of another kind."
    )


def _describe(value: Any) -> str:
    return f"a {type(value).__name__}"
