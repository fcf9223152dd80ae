"""The part of the protocol buffer wire format that checkpoints need, read without a schema.

Facts from the public encoding description: a field is a varint tag `number << 3 | type` and a value; types
are 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. Types 3 and 4 (groups) do not occur in
checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator

from effdet_model.errors import InputError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MASK64 = (1 << 64) - 1


def damaged(where: str, expected: str, found: str) -> InputError:
    """The error of every malformed byte: `where` names the file and the place in it."""
    return InputError(f"{where}: expected {expected}, found {found}; copy or download the checkpoint again.")


def read_varint(data: bytes, position: int, end: int, where: str) -> tuple[int, int]:
    """The unsigned 64-bit varint of `data` at `position` and the position after it; never reads past
    `end`.
    """
    if position < end and data[position] < 0x80:  # most are one byte
        return data[position], position + 1
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MASK64 or byte == 0:  # no writer adds empty bytes to a number
                break
            return value, position
        shift += 7
        if shift > 63:
            break
    raise damaged(where, "a varint of at most 64 bits", "one that is cut off, longer or padded")


def write_varint(value: int) -> bytes:
    """The varint of a value in 0 .. 2**64 - 1."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: bytes, where: str) -> Iterator[tuple[int, int, int | bytes]]:
    """Every (number, wire type, value) of one message: integers for types 0, 1 and 5, bytes for type 2."""
    position, end = 0, len(data)
    while position < end:
        tag, position = read_varint(data, position, end, where)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == VARINT:
            value, position = read_varint(data, position, end, where)
        elif kind == BYTES:
            length, position = read_varint(data, position, end, where)
            if length > end - position:
                raise damaged(where, f"{length} bytes for field {number}", f"{end - position}")
            value, position = data[position : position + length], position + length
        elif kind in (FIXED32, FIXED64):
            width = 4 if kind == FIXED32 else 8
            if width > end - position:
                raise damaged(where, f"{width} bytes for field {number}", f"{end - position}")
            value, position = int.from_bytes(data[position : position + width], "little"), position + width
        else:
            raise damaged(where, "a field of wire type 0, 1, 2 or 5", f"type {kind}")
        if not 0 < number < 1 << 29:
            raise damaged(where, "a field number above 0", f"{number}")
        yield number, kind, value


def integer(kind: int, value: int | bytes, where: str) -> int:
    """The value of an integer field as a signed 64-bit number."""
    if isinstance(value, bytes):
        raise damaged(where, "an integer field", f"wire type {kind}")
    return value - (1 << 64) if value >> 63 else value


def message(kind: int, value: int | bytes, where: str) -> bytes:
    """The bytes of a field that holds a message or a string."""
    if not isinstance(value, bytes):
        raise damaged(where, "a field of bytes", f"wire type {kind}")
    return value


def text(kind: int, value: int | bytes, where: str) -> str:
    """The text of a string field."""
    try:
        return message(kind, value, where).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(where, "text in UTF-8", f"{error.reason} at byte {error.start}") from error
