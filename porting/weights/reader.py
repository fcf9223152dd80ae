"""Read a PyTorch weight file tensor by tensor, recognised by its content."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch

from effdet_model.errors import InputError
from effdet_model.plain_tensors import check_header, check_names
from effdet_model.weights import METADATA_KEY, check_suffix, parse_metadata, read_metadata, read_weights
from effdet_model.wrappers import model_names
from porting.files import file_sha256

_ZIP, _PICKLE = b"PK\x03\x04", (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def is_weight_file(path: Path) -> bool:
    """Whether a path is a file that begins as .pth or .safetensors files do."""
    try:
        return path.is_file() and _dialect(path) is not None
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found: {error.strerror}; check it.") from error


def _dialect(path: Path) -> Literal["pth", "safetensors"] | None:
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:9] == b"{" and head[6:8] == b"\0\0":  # first: the length before it may begin as a pickle does
        return "safetensors"
    return "pth" if head.startswith((_ZIP, *_PICKLE)) else None


class WeightFile:
    """An open weight file; a context manager.

    Attributes:
        shapes: the model's key -> shape, in the file's order; wrappers' prefixes are off (`effdet_model.wrappers`).
        counters: keys of them that the file lacks, batch counters of value 0. notes: what was done, in sentences.
        metadata: what it says of itself; None where nothing.

    Raises:
        InputError: damaged, or not a plain dictionary of tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_suffix(path)
        self.dialect = _dialect(path) or "pth"
        self._safe: Any = None
        self._state: dict[str, torch.Tensor] = {}
        self._names: dict[str, str] = {}
        self.counters: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        if self.dialect == "safetensors":
            self._open_safetensors()
        else:
            loaded = read_weights(path, mapped=True)
            self._state, self.notes = loaded.state_dict, loaded.notes
            self.shapes = {key: tuple(tensor.shape) for key, tensor in self._state.items()}
            self.metadata = read_metadata(path)

    def read(self, key: str) -> tuple[np.ndarray, str]:
        """A tensor's values and its dtype in the file; bfloat16 comes as float32 of the same value."""
        if key in self.counters:
            return np.zeros((), np.int64), "int64"
        tensor = self._safe.get_tensor(self._names[key]) if self._safe is not None else self._state[key]
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
            tensor = tensor.float()
        return tensor.detach().numpy(), dtype

    def sha256(self) -> str:
        """SHA-256 of the file, in hex."""
        return file_sha256(self.path)

    def close(self) -> None:
        if self._safe is not None:
            self._safe.__exit__(None, None, None)
        self._safe = None
        self._state.clear()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_safetensors(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self._safe = safe_open(self.path, framework="pt").__enter__()
            check_names(self._safe.keys(), self.path)
            check_header({key: self._safe.get_slice(key) for key in self._safe.keys()}, self.path)
            found = model_names(self._safe.keys(), f"weights {self.path}")
            self._names, self.counters, self.notes = dict(found.names), found.counters, found.notes
            self.shapes = {name: tuple(self._safe.get_slice(key).get_shape()) for name, key in self._names.items()}
            self.shapes |= dict.fromkeys(self.counters, ())
            text = (self._safe.metadata() or {}).get(METADATA_KEY)
            self.metadata = parse_metadata(text, self.path) if text is not None else None
        except InputError:
            raise
        except (SafetensorError, ValueError, RecursionError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise InputError(
                f"{self.path}: expected a safetensors file, found: {reason}; the file is damaged or of another kind."
            ) from error
        self.metadata = parse_metadata(text, self.path) if text is not None else None
