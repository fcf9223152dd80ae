"""What a weight file from a stranger may hold: plain tensors by name, of sizes that the file itself can account for."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet_model.errors import InputError, shown

if TYPE_CHECKING:
    from torch import Tensor

MAX_TENSORS = 20_000
"""In one file; d7x has 2,300, and a trainer's file holds a few times a model's."""
MAX_NAME = 1000
"""Characters of a tensor's name."""
MAX_DIMENSIONS = 8
MAX_PICKLE_BYTES = 64 << 20
"""Of the part of a .pth that names the tensors; d7x has 0.3 MB."""
MAX_SHARED = 4
"""All tensors together are at most this many times as large as their file: some may share values."""

DTYPES = frozenset(
    ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
)
SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

_SMALL_FILE = 1 << 20
_PROGRAM = re.compile(r"[^/]+/code/.+\.py")
_ALLOCATOR = b"\nbytearray\n"
"""The one function PyTorch's reader of plain pickles calls that takes memory by a number in the file."""


def check_archive(path: Path) -> None:
    """Look at a .pth before anything is made from it.

    Raises:
        InputError: compressed or too many parts, a list of tensors that is too long, or a call that takes any memory.
    """
    try:
        if not zipfile.is_zipfile(path):
            _check_pickle(path, path.open("rb"))
            return
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(_PROGRAM.fullmatch(part.filename) for part in parts):
                raise InputError(
                    f"weights {path}: expected a PyTorch state_dict of plain tensors, found a TorchScript program, "
                    "which is not run; save its tensors where you trust it: m = torch.jit.load("
                    f"{path.name!r}); torch.save(dict(m.state_dict()), 'tensors.pth')."
                )
            if len(parts) > 2 * MAX_TENSORS:
                raise _refused(path, f"at most {MAX_TENSORS} tensors", f"{len(parts)} parts")
            for part in parts:
                if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                    raise _refused(path, "parts stored as they are", f"{shown(part.filename)} compressed")
                if part.filename.endswith(".pkl"):
                    if part.file_size > MAX_PICKLE_BYTES:
                        found = f"{part.file_size / 1e6:.0f} MB"
                        raise _refused(path, f"at most {MAX_PICKLE_BYTES / 1e6:.0f} MB that name the tensors", found)
                    _check_pickle(path, archive.open(part))
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError):
        return  # PyTorch says what is wrong with it


def _check_pickle(path: Path, opened: Any) -> None:
    with opened as file:
        tail = b""
        while block := file.read(1 << 22):
            if _ALLOCATOR in tail + block:
                raise _refused(path, "nothing but tensors and plain values", "a call of bytearray")
            tail = block[-len(_ALLOCATOR) :]


def checked_tensors(tensors: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The same tensors, if all are plain: dense, on the CPU, of common types, not larger than what the file holds.

    Nothing is copied before that, so that a small file which names one value a billion times costs nothing.

    Raises:
        InputError: a name or tensor that is not so; names the first.
    """
    check_names(tensors, path)
    total = 0
    for name, tensor in tensors.items():
        problem = _problem(tensor)
        if problem:
            raise _refused(path, "plain tensors", f"{shown(name)}, {problem}")
        total += tensor.numel() * tensor.element_size()
    size = path.stat().st_size
    if total > MAX_SHARED * max(size, _SMALL_FILE):
        raise _refused(
            path, f"tensors of at most {MAX_SHARED} times its {size / 1e6:.1f} MB", f"{total / 1e6:.0f} MB"
        )
    return dict(tensors)


def check_names(names: Iterable[Any], path: Path) -> None:
    """Refuse too many names, or one that is no text, too long, or empty."""
    listed = list(names)
    if len(listed) > MAX_TENSORS:
        raise _refused(path, f"at most {MAX_TENSORS} tensors", str(len(listed)))
    for name in listed:
        if not isinstance(name, str):
            raise _refused(path, "names that are text", f"{shown(name)} of type {type(name).__name__}", "a state_dict")
        if not 0 < len(name) <= MAX_NAME:
            raise _refused(path, f"names of 1 to {MAX_NAME} characters", f"one of {len(name)}: {shown(name)}")


def check_header(slices: Mapping[str, Any], path: Path) -> None:
    """Refuse by the header of a .safetensors what `checked_tensors` refuses; its sizes are checked by its reader.

    Args:
        slices: name -> safetensors' slice, which knows dtype and shape.
    """
    for name, part in slices.items():
        dtype = part.get_dtype()
        problem = _shape_problem(part.get_shape()) or (
            "" if dtype in SAFETENSORS_DTYPES else f"of dtype {shown(str(dtype))}"
        )
        if problem:
            raise _refused(path, "plain tensors", f"{shown(name)}, {problem}")


def _problem(tensor: Any) -> str:
    import torch

    if not isinstance(tensor, torch.Tensor):
        return f"a {type(tensor).__name__}"
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"of layout {'nested' if tensor.is_nested else str(tensor.layout).removeprefix('torch.')}"
    if tensor.device.type != "cpu":
        return f"without values (on device {tensor.device.type})"
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES or tensor.is_neg():
        return f"of dtype {dtype}" if dtype not in DTYPES else "a part of a complex one"
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        return f"{shown(list(tensor.shape))} repeated from {held} bytes"
    return _shape_problem(tensor.shape)


def _shape_problem(shape: Iterable[int]) -> str:
    count = len(list(shape))
    return f"of {count} dimensions (at most {MAX_DIMENSIONS})" if count > MAX_DIMENSIONS else ""


def _refused(path: Path, expected: str, found: str, again: str = "") -> InputError:
    again = again or "the state_dict again as dense tensors on the CPU ({name: tensor.cpu().contiguous()})"
    return InputError(f"weights {path}: expected {expected}, found {found}; save {again}, or get the file anew.")
