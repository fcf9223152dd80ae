"""The sorted string table that a checkpoint's `.index` file is.

Facts: tensorflow/core/lib/io/{format,block,table}.cc, the table format of LevelDB. The last 48 bytes are two
block handles (varint offset, varint size: meta index, index), zero padding and a magic number. A block is
entries, restart positions (uint32 each), their count (uint32), then a type byte (0 plain, 1 snappy) and a
masked CRC-32C of block and type. An entry is varints (bytes shared with the key before, further key bytes,
value bytes), key, value.
"""

from __future__ import annotations

from collections.abc import Iterator

from porting.checkpoint.snappy import unpack_snappy
from porting.checkpoint.wire import damaged, read_varint
from porting.crc32c import crc32c

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
TRAILER_BYTES = 5
MAX_TABLE_BYTES = 64 << 20
MAX_ENTRIES = 200_000


def mask_crc(crc: int) -> int:
    """The masked form in which TensorFlow stores a CRC-32C (tensorflow/core/lib/hash/crc32c.h)."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def masked_crc(data: object) -> int:
    """The masked CRC-32C of a bytes object or a contiguous read-only uint8 array."""
    return mask_crc(crc32c(data))


def read_table(data: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) of a table in its order, each block's checksum and the order of the keys checked.

    Work and memory are bounded by `MAX_TABLE_BYTES` (also for compressed blocks) and `MAX_ENTRIES`.

    Raises:
        InputError: anything that is not as the format says.
    """
    if len(data) > MAX_TABLE_BYTES:
        raise damaged(where, f"an index of at most {MAX_TABLE_BYTES} bytes", f"{len(data)}")
    meta, index = _read_footer(data, where)
    budget = _Budget(where)
    for _ in _block_entries(_read_block(data, meta, f"{where}, meta index", budget), f"{where}, meta index", budget):
        pass
    last = None
    index_where = f"{where}, block index"
    for number, (limit, handle) in enumerate(
        _block_entries(_read_block(data, index, index_where, budget), index_where, budget)
    ):
        block_where = f"{where}, block {number}"
        offset, position = read_varint(handle, 0, len(handle), block_where)
        size, position = read_varint(handle, position, len(handle), block_where)
        if position != len(handle):
            raise damaged(block_where, "a handle of two varints", f"{len(handle) - position} more bytes")
        block = _read_block(data, (offset, size), block_where, budget)
        for key, value in _block_entries(block, block_where, budget):
            if last is not None and key <= last:
                raise damaged(block_where, "keys in rising order", f"{_show(key)} after {_show(last)}")
            last = key
            yield key, value
        if last is not None and last > limit:
            raise damaged(block_where, f"keys up to {_show(limit)}", f"{_show(last)}")


class _Budget:
    """What may still be unpacked from one table."""

    def __init__(self, where: str) -> None:
        self.where, self.bytes, self.entries = where, MAX_TABLE_BYTES * 2, MAX_ENTRIES

    def take(self, count: int, entries: int = 0) -> None:
        self.bytes -= count
        self.entries -= entries
        if self.bytes < 0 or self.entries < 0:
            raise damaged(
                self.where,
                f"an index of at most {MAX_ENTRIES} names and {MAX_TABLE_BYTES * 2} unpacked bytes",
                "more",
            )


def _read_footer(data: bytes, where: str) -> tuple[tuple[int, int], tuple[int, int]]:
    where = f"{where}, footer"
    if len(data) < FOOTER_BYTES:
        raise damaged(where, f"at least {FOOTER_BYTES} bytes", f"{len(data)}")
    footer = data[-FOOTER_BYTES:]
    if footer[-8:] != MAGIC:
        raise damaged(where, f"the table magic {MAGIC.hex()} at the end", f"{footer[-8:].hex()}")
    numbers, position = [], 0
    for _ in range(4):
        value, position = read_varint(footer, position, FOOTER_BYTES - 8, where)
        numbers.append(value)
    if any(footer[position : FOOTER_BYTES - 8]):
        raise damaged(where, "zero padding", "other bytes")
    return (numbers[0], numbers[1]), (numbers[2], numbers[3])


def _read_block(data: bytes, handle: tuple[int, int], where: str, budget: _Budget) -> bytes:
    offset, size = handle
    room = len(data) - FOOTER_BYTES
    if offset + size + TRAILER_BYTES > room:
        raise damaged(where, f"a block inside the {room} bytes before the footer", f"bytes {offset} to {offset + size}")
    content, kind = data[offset : offset + size], data[offset + size]
    stored = int.from_bytes(data[offset + size + 1 : offset + size + TRAILER_BYTES], "little")
    actual = masked_crc(data[offset : offset + size + 1])
    if stored != actual:
        raise damaged(where, f"checksum {stored:08x}", f"{actual:08x}")
    if kind == 1:
        content = unpack_snappy(content, where, budget.bytes)
    elif kind != 0:
        raise damaged(where, "compression 0 (none) or 1 (snappy)", f"{kind}")
    budget.take(len(content))
    return content


def _block_entries(block: bytes, where: str, budget: _Budget) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else -1
    end = len(block) - 4 * (restarts + 1)
    if restarts < 0 or end < 0:
        raise damaged(where, "a block with restart positions", f"{len(block)} bytes, {restarts} restarts")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position, end, where)
        fresh, position = read_varint(block, position, end, where)
        length, position = read_varint(block, position, end, where)
        if shared > len(key) or fresh + length > end - position:
            raise damaged(where, "an entry inside its block", f"{shared} shared, {fresh} key, {length} value bytes")
        key = key[:shared] + block[position : position + fresh]
        budget.take(len(key), entries=1)
        position += fresh
        yield key, block[position : position + length]
        position += length


def _show(key: bytes) -> str:
    return repr(key[:80])[1:]
