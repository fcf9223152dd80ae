"""Write a checkpoint as `tf.compat.v1.train.Saver` leaves it, without TensorFlow.

The counterpart of `tensorbundle.py`; one data shard, an uncompressed index, the `checkpoint` state file.
The same tensors in the same order give the same bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from effdet_model.errors import InputError
from porting.checkpoint.sstable import FOOTER_BYTES, MAGIC, mask_crc, masked_crc
from porting.checkpoint.wire import write_varint
from porting.crc32c import crc32c
from porting.files import atomic_write

_STRING = 7
_CODES = {  # numpy dtype -> tensorflow/core/framework/types.proto
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9,
    "bool": 10, "bfloat16": 14, "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
_RESTART_INTERVAL = 16
_BLOCK_BYTES = 256 << 10


def write_checkpoint(prefix: str | Path, tensors: Iterable[tuple[str, np.ndarray]]) -> list[Path]:
    """Write `tensors` as PREFIX.data-00000-of-00001, PREFIX.index and the folder's `checkpoint` file.

    Tensors are taken one by one and not kept. Arrays of any numeric dtype, of bool, or object arrays of bytes.

    Returns:
        The three files. All appear together at the end, or none.

    Raises:
        InputError: a name twice, a dtype that a checkpoint cannot hold, or a folder that cannot be written to.
    """
    prefix = Path(prefix)
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    index = prefix.with_name(f"{prefix.name}.index")
    state = prefix.with_name("checkpoint")
    with contextlib.ExitStack() as files:  # left in reverse: data first, the file that names it last
        state_file, index_file, data_file = (files.enter_context(atomic_write(path)) for path in (state, index, data))
        with open(data_file, "wb") as out:
            entries = _write_data(out, tensors)
        index_file.write_bytes(table_bytes({b"": _header(), **entries}))
        quoted = prefix.name.replace("\\", "\\\\").replace('"', '\\"')
        state_file.write_text(
            f'model_checkpoint_path: "{quoted}"\nall_model_checkpoint_paths: "{quoted}"\n', encoding="utf-8"
        )
    return [data, index, state]


def table_bytes(
    entries: Mapping[bytes, bytes], block_bytes: int = _BLOCK_BYTES, snappy: Callable[[bytes], bytes] | None = None
) -> bytes:
    """A sorted string table (see `sstable.py`) of `entries`, its blocks closed from `block_bytes` on.

    Args:
        snappy: packs a block into Snappy's raw format; None: blocks are not packed, as TensorFlow writes them.
    """
    out, index = bytearray(), []
    block: list[tuple[bytes, bytes]] = []
    size = 0
    for key in sorted(entries):
        block.append((key, entries[key]))
        size += len(key) + len(entries[key])
        if size >= block_bytes:
            index.append((key, _append_block(out, block, snappy)))
            block, size = [], 0
    if block:
        index.append((block[-1][0], _append_block(out, block, snappy)))
    handles = _append_block(out, [], None) + _append_block(out, index, snappy)
    return bytes(out + handles.ljust(FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC)


def _append_block(
    out: bytearray, entries: list[tuple[bytes, bytes]], snappy: Callable[[bytes], bytes] | None
) -> bytes:
    """Append one block and its trailer to `out`; the handle of it."""
    block, restarts, last = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % _RESTART_INTERVAL:
            limit = min(len(key), len(last))
            while shared < limit and key[shared] == last[shared]:
                shared += 1
        elif number:
            restarts.append(len(block))
        block += write_varint(shared) + write_varint(len(key) - shared) + write_varint(len(value))
        block += key[shared:] + value
        last = key
    for number in (*restarts, len(restarts)):
        block += number.to_bytes(4, "little")
    content = bytes(block)
    if snappy is not None:
        content = snappy(content)
    content += bytes([snappy is not None])
    handle = write_varint(len(out)) + write_varint(len(content) - 1)
    out += content + masked_crc(content).to_bytes(4, "little")
    return handle


def _write_data(out: BinaryIO, tensors: Iterable[tuple[str, np.ndarray]]) -> dict[bytes, bytes]:
    entries: dict[bytes, bytes] = {}
    offset = 0
    for name, array in tensors:
        key = name.encode("utf-8")
        if not key or key in entries:
            raise InputError(
                f"cannot write the checkpoint: expected each name once, found {name!r} again; remove one of the two."
            )
        array = np.asarray(array)
        code, size, crc = _write_tensor(out, name, array)
        entries[key] = _entry(code, array.shape, offset, size, crc)
        offset += size
    return entries


def _write_tensor(out: BinaryIO, name: str, array: np.ndarray) -> tuple[int, int, int]:
    """Write the bytes of one tensor; its dtype code, size in bytes and masked CRC-32C."""
    if array.dtype == object and all(isinstance(value, bytes) for value in array.flat):
        content, crc = _string_bytes(array)
        out.write(content)
        return _STRING, len(content), crc
    if array.dtype.name not in _CODES:
        raise InputError(
            f"cannot write the checkpoint: expected numbers for {name}, found dtype {array.dtype}; "
            f"convert it to one of {', '.join(_CODES)}."
        )
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    flat = little.reshape(-1).view(np.uint8)
    flat.flags.writeable = False
    out.write(flat.data)
    return _CODES[array.dtype.name], flat.size, masked_crc(flat)


def _string_bytes(array: np.ndarray) -> tuple[bytes, int]:
    values = list(array.flat)
    crc = 0
    for value in values:
        crc = crc32c(len(value).to_bytes(4 if len(value) < 1 << 32 else 8, "little"), crc)
    checksum = mask_crc(crc).to_bytes(4, "little")
    strings = b"".join(values)
    crc = crc32c(checksum + strings, crc)
    return b"".join(write_varint(len(value)) for value in values) + checksum + strings, mask_crc(crc)


def _header() -> bytes:
    """BundleHeaderProto: num_shards 1, version { producer 1 }; little-endian is the default."""
    return b"\x08\x01\x1a\x02\x08\x01"


def _entry(code: int, shape: tuple[int, ...], offset: int, size: int, crc: int) -> bytes:
    """BundleEntryProto: dtype 1, shape 2 { dim 2 { size 1 } }, offset 4, size 5, crc32c 6; zeros are left out."""
    dims = b""
    for length in shape:
        dim = b"\x08" + write_varint(length) if length else b""
        dims += b"\x12" + write_varint(len(dim)) + dim
    entry = b"\x08" + write_varint(code) + b"\x12" + write_varint(len(dims)) + dims
    entry += b"\x20" + write_varint(offset) if offset else b""
    entry += b"\x28" + write_varint(size) if size else b""
    return entry + b"\x35" + crc.to_bytes(4, "little")
