"""Weight files: .pth (a plain state_dict, metadata beside it as .json) and .safetensors (metadata in its header)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from effdet_model.errors import InputError, InputWarning, shown
from effdet_model.fit import compare
from effdet_model.plain_data import parse_json, read_json
from effdet_model.plain_tensors import check_archive, check_header, check_names, checked_tensors
from effdet_model.wrappers import find_state_dict, model_names

if TYPE_CHECKING:
    from torch import Tensor, nn

METADATA_KEY = "effdet_port"
"""Under this key the safetensors header has the metadata, as JSON text."""

WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")


_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def metadata_path(weights: Path) -> Path:
    """Where the metadata of a .pth lies: d0.json beside d0.pth."""
    return weights.with_suffix(".json")


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """What a weight file says of itself; None where it says nothing.

    Raises:
        InputError: the file or its metadata cannot be read.
    """
    path = _existing(path)
    check_suffix(path)
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
    expected, found = str(metadata["weights_sha256"]), file_sha256(path)
    if expected.lower() != found:
        beside = metadata_path(path)
        raise InputError(
            f"weights {path}: expected the file that {beside.name} beside it was written for (SHA-256 "
            f"{expected[:16]}...), found another one ({found[:16]}...); put the right .json there, or move "
            f"{beside.name} away or rename {path.name} and name the variant."
        )


def file_sha256(path: str | PurePath) -> str:
    """The SHA-256 of a weight file, as 64 hex digits; not computed again while the file is the same.

    Raises:
        InputError: the file cannot be read.
    """
    path = _existing(path)
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, *_state: int) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, "a readable file", error) from error
    return digest.hexdigest()


@dataclass(frozen=True)
class Weights:
    """The tensors of a model from a file, on the CPU, by the model's names; notes on what was done to get them."""

    state_dict: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights(path: str | Path, mapped: bool = False) -> Weights:
    """A model's tensors from a plain state_dict, a trainer's file or a wrapper's state_dict (`effdet_model.wrappers`).

    Args:
        mapped: leave the tensors of a .pth in the file, mapped into memory, instead of copying them.

    Raises:
        InputError: no such file, damaged, not certainly the tensors of one model, or not plain ones
            (`effdet_model.plain_tensors`).
    """
    import torch

    path = _existing(path)
    tensors, notes = _read(path, mapped)
    found = model_names(tensors, f"weights {path}")
    state_dict = {name: tensors[key] for name, key in found.names.items()}
    state_dict |= {name: torch.zeros((), dtype=torch.int64) for name in found.counters}
    return Weights(state_dict, (*notes, *found.notes))


def read_state_dict(path: str | Path, mapped: bool = False) -> dict[str, Tensor]:
    """`read_weights` where nobody asks for the notes: they become warnings (`InputWarning`)."""
    found = read_weights(path, mapped)
    for note in found.notes:
        warnings.warn(f"weights {path}: {note}", InputWarning, stacklevel=2)
    return found.state_dict


def read_tensors(path: str | Path, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a weight file by the names that they have in it."""
    return _read(_existing(path), mapped)[0]


def load_into(model: nn.Module, state_dict: dict[str, Tensor], source: str | Path) -> None:
    """Copy tensors into a model, strictly.

    Raises:
        InputError: a name is missing or extra, or a shape differs; the message lists them.
    """
    own = model.state_dict()
    whole = {name: tensor for name, tensor in state_dict.items() if not tensor.is_floating_point()}
    mismatch = compare(
        {name: tuple(tensor.shape) for name, tensor in own.items()},
        {name: tuple(tensor.shape) for name, tensor in state_dict.items()},
        {name: dtype_name(tensor) for name, tensor in whole.items() if name in own and own[name].is_floating_point()},
    )
    if mismatch:
        raise InputError(
            mismatch.sentence(
                f"weights {source} do not fit this model: expected {len(own)} tensors by exact name and shape, found ",
                ". Name the variant (and class count, anchors) that the weights were made for.",
            )
        )
    model.load_state_dict(state_dict, strict=True)


def dtype_name(tensor: Tensor) -> str:
    """float32 for torch.float32, and so on."""
    return str(tensor.dtype).removeprefix("torch.")


def _read(path: Path, mapped: bool) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    check_suffix(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path), ()
    check_archive(path)
    tensors, notes = find_state_dict(_unpickled(path, mapped), f"weights {path}")
    return checked_tensors(tensors, path), notes


def check_suffix(path: Path) -> None:
    """Refuse a .safetensors that has another name, and the other way round: the name says where its metadata lie.

    Raises:
        InputError: name and content are of two kinds.
    """
    with open(path, "rb") as file:
        head = file.read(9)
    is_safetensors = head[8:9] == b"{" and head[6:8] == b"\0\0"  # any byte may begin it, also those of a pickle
    if is_safetensors and path.suffix != ".safetensors":
        raise InputError(
            f"{path}: expected a PyTorch state_dict of plain tensors, found a safetensors file; rename it to "
            f"{path.with_suffix('.safetensors').name}."
        )
    if path.suffix == ".safetensors" and not is_safetensors and head.startswith((b"PK\x03\x04", b"\x80")):
        raise InputError(
            f"{path}: expected a safetensors file, found one that torch.save wrote; rename it to "
            f"{path.with_suffix('.pth').name}."
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            check_names(names, path)
            check_header({name: file.get_slice(name) for name in names}, path)
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise _unreadable(path, "a safetensors file", error) from error


def _unpickled(path: Path, mapped: bool) -> Any:
    """What a .pth holds: tensors, plain Python values and the arguments of a trainer; nothing that runs code."""
    import argparse

    import torch

    with open(path, "rb") as file:
        mapped = mapped and file.read(4) == b"PK\x03\x04"  # files of PyTorch before 1.6 cannot be mapped
    allowed: Any = getattr(torch.serialization, "safe_globals", lambda classes: contextlib.nullcontext())
    try:
        with allowed([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (
        RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
        AssertionError, MemoryError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        needed = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|unsupported GLOBAL) ([\w.]+)", str(error))
        if needed is None:
            raise _unreadable(path, "a PyTorch state_dict of plain tensors", error) from error
        raise InputError(
            f"{path}: expected a PyTorch state_dict of plain tensors, found a pickle that needs {needed[1]} and may "
            f"run any code, so it is not read. If you trust it, save its tensors again where it was made: "
            f"m = torch.load({path.name!r}, weights_only=False); torch.save(m.state_dict(), 'tensors.pth') "
            "(of a trainer's file m['state_dict'])."
        ) from error


def _existing(path: str | PurePath) -> Path:
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
    text = _ANSI.sub("", str(error)).strip()
    cause = re.search(r"WeightsUnpickler error: (.*)", text)  # the rest advises to run the file's code
    reason = (cause[1] if cause else text.split("\n")[0])[:200]
    if not re.search("[a-z]", reason) or reason == type(error).__name__:  # an opcode's number, or nothing
        reason = "an empty file" if path.stat().st_size == 0 else "another kind of content"
    return InputError(
        f"{path}: expected {expected}, found: {reason}; the file is damaged or of another kind."
    )


def _describe(value: Any) -> str:
    return f"a {type(value).__name__}"
