"""CRC-32C (Castagnoli), the checksum of TensorFlow's checkpoints and of Google's storage.

`google-crc32c` (the extra `fast`) does it where it is installed, and else numpy, with the same results.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

try:
    from google_crc32c import extend as _extend
except ImportError:
    _extend = None

_POLYNOMIAL = 0x82F63B78
"""Reflected: bit 31 is the coefficient of x^0."""
_ROW_BITS = 13
"""The words of a long message are folded in rows of 2^13."""
_PIECE = 16 << 20
"""Bytes that are copied at once."""


def crc32c(data: Any, crc: int = 0) -> int:
    """The CRC-32C of bytes or of a contiguous uint8 array, continued from the `crc` of what came before."""
    return numpy_crc32c(data, crc) if _extend is None else int(_extend(crc, data))


def numpy_crc32c(data: Any, crc: int = 0) -> int:
    """`crc32c` without `google-crc32c`.

    A checksum is linear over GF(2): the message is cut into rows of 2^k words, each row is added (xor) to the sum of
    the rows before it, moved on by one row's length; the last row is halved in the same way until one word is left.
    """
    content = np.frombuffer(data, np.uint8)
    register = crc ^ 0xFFFFFFFF
    whole = content.size // 4 * 4
    for start in range(0, whole, _PIECE):
        words = content[start : min(start + _PIECE, whole)].view("<u4").astype(np.uint32)
        words[0] ^= np.uint32(register)
        register = int(_moved(_folded(words), 0)[0])
    for byte in content[whole:].tolist():
        register = register >> 8 ^ int(_byte_table()[(register ^ byte) & 0xFF])
    return register ^ 0xFFFFFFFF


def _folded(words: np.ndarray) -> np.ndarray:
    """uint32 [n] to uint32 [1] with the same remainder."""
    bits = min(_ROW_BITS, (words.size - 1).bit_length())
    missing = -words.size % (1 << bits)
    rows = np.concatenate([np.zeros(missing, np.uint32), words]).reshape(-1, 1 << bits)  # zeros in front add nothing
    row = rows[0]
    for following in rows[1:]:
        row = _moved(row, bits) ^ following
    while bits:
        bits -= 1
        row = _moved(row[: 1 << bits], bits) ^ row[1 << bits :]
    return row


def _moved(registers: np.ndarray, bits: int) -> np.ndarray:
    """Each register after 2^bits words of zeros."""
    low, high = _tables(bits)
    return low[registers & 0xFFFF] ^ high[registers >> 16]


@cache
def _byte_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1 ^ (table & 1) * np.uint32(_POLYNOMIAL)).astype(np.uint32)
    return table


@cache
def _columns(bits: int) -> np.ndarray:
    """uint32 [32]: what each single bit of a register becomes after 2^bits words of zeros."""
    if bits:
        half = _columns(bits - 1)
        return _moved(half, bits - 1)
    columns = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(4):
        columns = columns >> 8 ^ _byte_table()[columns & 0xFF]
    return columns


@cache
def _tables(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The sums of all choices of the lower and of the upper 16 columns, each uint32 [65536]."""
    halves = []
    for columns in np.split(_columns(bits), 2):
        table = np.zeros(1, np.uint32)
        for column in columns:
            table = np.concatenate([table, table ^ column])
        halves.append(table)
    return halves[0], halves[1]
