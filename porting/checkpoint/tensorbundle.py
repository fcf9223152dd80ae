"""Read a TensorFlow V2 checkpoint ("tensor bundle") without TensorFlow.

Facts: tensorflow/core/protobuf/tensor_bundle.proto and core/util/tensor_bundle/tensor_bundle.cc.
`PREFIX.index` is a sorted table: the empty key has the header (number of shards, endianness, version), every
other key a tensor's dtype, shape, shard, offset, size and masked CRC-32C. `PREFIX.data-SSSSS-of-NNNNN` has
the bytes.
"""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType

import numpy as np

from effdet_model.errors import InputError, nearest
from porting.checkpoint.sstable import MAX_TABLE_BYTES, mask_crc, masked_crc, read_table
from porting.checkpoint.wire import damaged, fields, integer, message, read_varint
from porting.crc32c import crc32c

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
STRING, BFLOAT16 = 7, 14
NUMPY_DTYPES: dict[int, str] = {  # tensorflow/core/framework/types.proto
    1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 8: "<c8", 9: "<i8", 10: "|b1", 11: "|i1",
    12: "|u1", 13: "<i4", BFLOAT16: "<u2", 15: "<i2", 16: "<u2", 17: "<u2", 18: "<c16", 19: "<f2", 22: "<u4",
    23: "<u8",
}  # fmt: skip
_NAMES_AND_WIDTHS = {code: (np.dtype(text).name, np.dtype(text).itemsize) for code, text in NUMPY_DTYPES.items()}
_NAMES_AND_WIDTHS[BFLOAT16] = ("float32", 2)
MAX_SHARDS = 100_000
MAX_RANK = 32
MAX_ELEMENTS = 1 << 48
MAX_NAME_BYTES = 4096
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the index. `dtype` is the numpy name of what `read` gives ("object" for strings)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    code: int
    shard: int
    offset: int
    size: int
    crc: int
    slices: int


class TensorBundle:
    """The checkpoint at `prefix`: `entries` by name, `read(name)` from disk with its checksum checked.

    Args:
        prefix: path without `.index` and `.data-SSSSS-of-NNNNN`.
        label: what messages call the checkpoint; default the prefix.

    Raises:
        InputError: a file is missing, cut off or not what the format says.
    """

    def __init__(self, prefix: Path, label: str | None = None) -> None:
        self.prefix = Path(prefix)
        self.label = label or str(prefix)
        self.index_path = self.prefix.with_name(self.prefix.name + ".index")
        self._maps: dict[int, mmap.mmap | bytes] = {}
        where = f"{self.label}.index"
        table = read_table(_read_limited(self.index_path, where), where)
        self.shard_count = _read_header(table, where)
        self.entries: dict[str, TensorEntry] = {}
        for key, value in table:
            if not key.startswith(b"\0"):  # those are the parts of partitioned variables
                entry = _read_entry(key, value, where)
                self.entries[entry.name] = entry
        self.shard_paths = self._check_shards()

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`, read-only, bit by bit as written, its CRC-32C checked.

        Numeric dtypes are views of the mapped file (a copy only where the file is not aligned for them),
        bfloat16 comes as the float32 of the same value, strings as an object array of bytes.
        """
        entry = self.entries.get(name)
        if entry is None:
            close = " or ".join(nearest(name, self.entries)) or "none close"
            raise InputError(f"{self.label}: expected a tensor {name!r}, found {close}; look with `inspect`.")
        if entry.slices:
            raise InputError(
                f"{self.label}: expected {name} in one piece, found it partitioned into "
                f"{entry.slices} slices; "
                "save the checkpoint again without a variable partitioner."
            )
        where = f"{self.label}.data-{entry.shard:05d}-of-{self.shard_count:05d}, {name}"
        content = self._bytes(entry)
        if entry.code == STRING:
            return _decode_strings(bytes(content), entry, where)
        actual = masked_crc(content)
        if actual != entry.crc:
            raise damaged(where, f"checksum {entry.crc:08x}", f"{actual:08x}")
        return _as_array(content, entry)

    def close(self) -> None:
        """Unmap the shards; arrays that are still in use keep theirs until they go."""
        for mapped in self._maps.values():
            if isinstance(mapped, mmap.mmap):
                with contextlib.suppress(BufferError):
                    mapped.close()
        self._maps.clear()

    def __enter__(self) -> TensorBundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_shards(self) -> dict[int, Path]:
        ends: dict[int, TensorEntry] = {}
        for entry in self.entries.values():
            if entry.shard >= self.shard_count:
                raise damaged(
                    f"{self.label}.index",
                    f"{entry.name} in one of {self.shard_count} shards",
                    f"shard {entry.shard}",
                )
            last = ends.get(entry.shard)
            if not entry.slices and (last is None or entry.offset + entry.size > last.offset + last.size):
                ends[entry.shard] = entry
        paths = {}
        for shard, last in sorted(ends.items()):
            path = self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.shard_count:05d}")
            where = f"{self.label}.data-{shard:05d}-of-{self.shard_count:05d}"
            if not path.is_file():
                raise InputError(
                    f"{where}: expected this shard beside its index ({self.shard_count} shards belong "
                    f"to it), "
                    "found no such file; copy all files of the checkpoint into one folder."
                )
            size = path.stat().st_size
            if last.offset + last.size > size:
                raise damaged(where, f"{last.offset + last.size} bytes or more (for {last.name})", f"{size}")
            paths[shard] = path
        return paths

    def _bytes(self, entry: TensorEntry) -> np.ndarray:
        """uint8 [size], a view of the mapped shard."""
        if entry.size == 0:
            return np.frombuffer(b"", np.uint8)
        if entry.shard not in self._maps:
            path = self.shard_paths[entry.shard]
            try:
                with open(path, "rb") as file:
                    self._maps[entry.shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: expected a readable file, found: {error}; check its permissions.") from error
        mapped = self._maps[entry.shard]
        if entry.offset + entry.size > len(mapped):
            raise damaged(str(self.shard_paths[entry.shard]), f"{entry.offset + entry.size} bytes", f"{len(mapped)}")
        return np.frombuffer(mapped, np.uint8, entry.size, entry.offset)


def _read_limited(path: Path, where: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(
            f"{where}: expected the checkpoint's index, found no such file; "
            "name the path before `.index`, and keep the .index and .data files in one folder."
        ) from error
    except OSError as error:
        raise InputError(f"{where}: expected a readable file, found: {error.strerror}; check the path.") from error
    return data


def _read_header(table: object, where: str) -> int:
    key, value = next(table, (None, b""))  # type: ignore[call-overload]
    if key != b"":
        raise damaged(where, "a checkpoint header as first entry", "nothing" if key is None else f"{key[:80]!r}")
    shards, endianness, consumer = 0, 0, 0
    for number, kind, content in fields(value, where):
        if number == 1:
            shards = integer(kind, content, where)
        elif number == 2:
            endianness = integer(kind, content, where)
        elif number == 3:
            for inner, inner_kind, inner_content in fields(message(kind, content, where), where):
                if inner == 2:
                    consumer = integer(inner_kind, inner_content, where)
    if endianness != 0:
        raise InputError(
            f"{where}: expected a little-endian checkpoint, found a big-endian one; save it again on this machine."
        )
    if consumer > _FORMAT_VERSION:
        raise InputError(
            f"{where}: expected checkpoint format {_FORMAT_VERSION}, found one for readers of format "
            f"{consumer}; "
            "save it with a released TensorFlow."
        )
    if not 0 < shards <= MAX_SHARDS:
        raise damaged(where, f"1 to {MAX_SHARDS} shards", f"{shards}")
    return shards


def _read_entry(key: bytes, value: bytes, where: str) -> TensorEntry:
    if len(key) > MAX_NAME_BYTES:
        raise damaged(where, f"tensor names of at most {MAX_NAME_BYTES} bytes", f"one of {len(key)}")
    try:
        name = key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(where, "tensor names in UTF-8", f"{key[:80]!r}") from error
    where = f"{where}, {name[:200]}"
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}  # dtype, shard, offset, size, crc
    shape: tuple[int, ...] = ()
    slices = 0
    for number, kind, content in fields(value, where):
        if number in numbers:
            numbers[number] = integer(kind, content, where)
        elif number == 2:
            shape = _read_shape(message(kind, content, where), where)
        elif number == 7:
            slices += 1
    code, shard, offset, size, crc = numbers.values()
    if code not in NUMPY_DTYPES and code != STRING:
        raise InputError(
            f"{where}: expected a numeric or string tensor, found TensorFlow dtype {code}; "
            "save the model's variables alone."
        )
    if shard < 0 or offset < 0 or size < 0:
        raise damaged(where, "shard, offset and size of 0 or more", f"{shard}, {offset}, {size}")
    if code == STRING:
        dtype, least = "object", prod(shape)
        plausible = slices > 0 or size >= least + 4
    else:
        dtype, width = _NAMES_AND_WIDTHS[code]
        least = prod(shape) * width
        plausible = slices > 0 or size == least
    if not plausible:
        raise damaged(where, f"{least} bytes for shape {list(shape)}", f"{size}")
    return TensorEntry(name, dtype, shape, code, shard, offset, size, crc, slices)


def _read_shape(value: bytes, where: str) -> tuple[int, ...]:
    shape = []
    for number, kind, content in fields(value, where):
        if number == 2:
            size = 0
            for inner, inner_kind, inner_content in fields(message(kind, content, where), where):
                if inner == 1:
                    size = integer(inner_kind, inner_content, where)
            shape.append(size)
        elif number == 3 and integer(kind, content, where):
            raise damaged(where, "a known rank", "an unknown one")
    if len(shape) > MAX_RANK or min(shape, default=0) < 0 or prod(filter(None, shape)) > MAX_ELEMENTS:
        raise damaged(where, f"at most {MAX_RANK} sizes of 0 or more", f"{shape[: MAX_RANK + 1]}")
    return tuple(shape)


def _as_array(content: np.ndarray, entry: TensorEntry) -> np.ndarray:
    array = content.view(NUMPY_DTYPES[entry.code])
    if entry.code == BFLOAT16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif not array.flags.aligned:
        array = array.copy()
    array = array.reshape(entry.shape)
    array.flags.writeable = False
    return array


def _decode_strings(content: bytes, entry: TensorEntry, where: str) -> np.ndarray:
    """Varint lengths, masked CRC of the lengths (uint32 each; uint64 from 2**32 on), then the strings."""
    lengths, position, crc = [], 0, 0
    for _ in range(prod(entry.shape)):
        length, position = read_varint(content, position, len(content), where)
        crc = crc32c(length.to_bytes(4 if length < 1 << 32 else 8, "little"), crc)
        lengths.append(length)
    checksum = content[position : position + 4]
    if len(checksum) != 4 or int.from_bytes(checksum, "little") != mask_crc(crc):
        raise damaged(where, "string lengths that fit their checksum", "others")
    position += 4
    if position + sum(lengths) != len(content):
        raise damaged(where, f"{position + sum(lengths)} bytes of strings", f"{len(content)}")
    crc = crc32c(checksum + content[position:], crc)
    if mask_crc(crc) != entry.crc:
        raise damaged(where, f"checksum {entry.crc:08x}", f"{mask_crc(crc):08x}")
    strings = np.empty(len(lengths), object)
    for number, length in enumerate(lengths):
        strings[number], position = content[position : position + length], position + length
    strings = strings.reshape(entry.shape)
    strings.flags.writeable = False
    return strings
