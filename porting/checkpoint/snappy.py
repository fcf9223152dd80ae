"""Unpack Snappy's raw format, in which the blocks of a checkpoint's index may be packed.

Facts: google/snappy format_description.txt. A varint has the unpacked size; then come elements, whose first byte says
in its lowest two bits what follows: 0 bytes to take over, 1 to 3 a copy of what was unpacked before.
"""

from __future__ import annotations

from porting.checkpoint.wire import damaged, read_varint


def unpack_snappy(content: bytes, where: str, max_bytes: int) -> bytes:
    """The unpacked block.

    Raises:
        InputError: it is damaged, or unpacks to more than `max_bytes`.
    """
    size, position = read_varint(content, 0, len(content), where)
    if size > min(max_bytes, 64 * len(content) + 64):  # at most 64 bytes come from 3
        raise damaged(where, "a snappy block of plausible size", f"{size} bytes from {len(content)}")
    out = bytearray()
    while position < len(content):
        kind, upper = content[position] & 3, content[position] >> 2
        position += 1
        if kind == 0:
            if upper >= 60:
                width = upper - 59
                upper = int.from_bytes(content[position : position + width], "little")
                position += width
            out += content[position : position + upper + 1]
            position += upper + 1
        else:
            width = (0, 1, 2, 4)[kind]
            offset = int.from_bytes(content[position : position + width], "little")
            position += width
            length = upper + 1
            if kind == 1:
                length, offset = (upper & 7) + 4, offset | upper >> 3 << 8
            if not 0 < offset <= len(out):
                raise damaged(where, "a snappy block", f"a copy from {offset} bytes back at byte {len(out)}")
            start = len(out) - offset
            piece = bytes(out[start : start + length])
            out += (piece * -(-length // len(piece)))[:length]  # a copy may reach into what it writes
        if position > len(content) or len(out) > size:
            break
    if position != len(content) or len(out) != size:
        raise damaged(where, f"{size} unpacked bytes", f"{len(out)}, or an end inside an element")
    return bytes(out)
