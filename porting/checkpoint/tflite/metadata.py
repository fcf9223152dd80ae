"""How images are normalised, in the metadata that tools for phones (Model Maker, MediaPipe) add to a .tflite file.

Facts: tensorflow/lite/experimental/support/metadata/metadata_schema.fbs; a flatbuffer of its own in a buffer of the
file. Quantised files have the normalisation of the model that they were made from.
"""

from __future__ import annotations

import math
from typing import Any

from flatbuffers import encode
from flatbuffers.number_types import Float32Flags, Uint8Flags, UOffsetTFlags
from flatbuffers.table import Table

NAME = "TFLITE_METADATA"
MAX_UNITS = 100
_NORMALISATION = 1
_SUBGRAPHS, _INPUTS, _UNITS = 3, 2, 4
"""Places of fields in their tables: ModelMetadata, SubGraphMetadata, TensorMetadata."""


def normalisation(content: bytes) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of the first input, one number or one per channel each; None where none is said.

    Raises:
        struct.error, IndexError, TypeError, ValueError: damaged.
    """
    model = Table(content, encode.Get(UOffsetTFlags.packer_type, content, 0))
    graph = _first(model, _SUBGRAPHS)
    image = _first(graph, _INPUTS) if graph else None
    for unit in _tables(image, _UNITS) if image else ():
        kind, options = _offset(unit, 0), _offset(unit, 1)
        if not kind or not options or unit.Get(Uint8Flags, kind + unit.Pos) != _NORMALISATION:
            continue
        table = Table(content, unit.Indirect(options + unit.Pos))
        mean, deviation = _floats(table, 0), _floats(table, 1)
        if len(mean) in (1, 3) and len(deviation) in (1, 3):
            if not all(map(math.isfinite, mean + deviation)) or min(deviation) <= 0:
                raise ValueError(f"a mean of {mean} and a deviation of {deviation}")
            return mean, deviation
    return None


def _offset(table: Table, field: int) -> int:
    """Of a field's value in its table; 0: it is not there."""
    return int(table.Offset(4 + 2 * field))


def _tables(table: Table, field: int) -> list[Table]:
    offset = _offset(table, field)
    if not offset:
        return []
    count, start = table.VectorLen(offset), table.Vector(offset)
    if not 0 <= count <= MAX_UNITS:
        raise ValueError(f"{count} entries in the metadata")
    return [Table(table.Bytes, table.Indirect(start + 4 * place)) for place in range(count)]


def _first(table: Table, field: int) -> Table | None:
    found = _tables(table, field)
    return found[0] if found else None


def _floats(table: Table, field: int) -> tuple[float, ...]:
    offset = _offset(table, field)
    if not offset:
        return ()
    count, start = table.VectorLen(offset), table.Vector(offset)
    if not 0 <= count <= MAX_UNITS:
        raise ValueError(f"{count} numbers in the metadata")
    numbers: list[Any] = [table.Get(Float32Flags, start + 4 * place) for place in range(count)]
    return tuple(float(number) for number in numbers)
