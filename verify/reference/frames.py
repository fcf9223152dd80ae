"""Messages between the diff and the process that runs TensorFlow: a JSON header and, where it has one, an array."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

_LENGTH = struct.Struct("<I")


def send(stream: BinaryIO, header: Mapping[str, Any], array: np.ndarray | None = None) -> None:
    """Write one message; blocks while the other side is busy."""
    fields = dict(header)
    if array is not None:
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        fields["array"] = [array.dtype.name, array.shape]
    text = json.dumps(fields).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    if array is not None:
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    header = json.loads(_exactly(stream, length))
    if "array" not in header:
        return header, None
    dtype, shape = header["array"]
    array = np.empty(shape, dtype)
    flat = array.reshape(-1).view(np.uint8)
    filled = 0
    while filled < flat.size:
        count = stream.readinto(flat[filled:].data)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return header, array


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data
