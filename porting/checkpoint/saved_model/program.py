"""The program beside a SavedModel's variables, `saved_model.pb`, read as data: signatures, constants, operations.

Nothing of it is executed. Facts: tensorflow/core/protobuf/{saved_model,meta_graph}.proto and
core/framework/{graph,function,node_def,attr_value,tensor,tensor_shape}.proto. Field numbers:
SavedModel 2 meta_graphs; MetaGraphDef 1 meta_info_def (5 tensorflow_version), 2 graph_def, 5 signature_def;
GraphDef 1 node, 2 library (1 function, of which 3 are nodes); NodeDef 1 name, 2 op, 3 input, 5 attr.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from effdet_model.errors import InputError
from porting.checkpoint.wire import damaged, fields, integer, message, read_varint, text

MAX_BYTES = 1 << 30
MAX_GRAPHS = 100
MAX_NODES = 5_000_000
MAX_SIGNATURES = 1000
MAX_RANK = 32
MAX_CONSTANT = 64 << 20
FLOAT = 1
WHOLE = 3
_BINARY = ("Sub", "RealDiv")
_SUPPRESSION = ("NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5")
"""Inputs 2 to 5: how many, IoU threshold, score threshold and, of the last, half of google/automl's sigma."""
MAX_KINDS = 100
"""Different settings of suppression."""


@dataclass(frozen=True)
class TensorSpec:
    """A signature's input or output: TensorFlow's dtype code and shape, -1 where a size is open, None unknown."""

    name: str
    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    """A function that a SavedModel offers by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass
class Program:
    """What is read of a `saved_model.pb`.

    Attributes:
        version: of the TensorFlow that wrote it; "" where it does not say.
        signatures: by name. operations: how many nodes have each operation, over all functions.
        boxes: constants float32 [N, 4], each once. subtracted, divided_by: constants of three numbers that something
            is subtracted or divided by, each once.
        suppression: (how many boxes, IoU threshold, score threshold, sigma of TensorFlow's operation; 0: hard) of
            every NonMaxSuppression whose settings are constants, each once. top_k: constants of TopKV2, each once.
    """

    version: str = ""
    signatures: dict[str, Signature] = field(default_factory=dict)
    operations: Counter[str] = field(default_factory=Counter)
    boxes: list[np.ndarray] = field(default_factory=list)
    subtracted: list[tuple[float, ...]] = field(default_factory=list)
    divided_by: list[tuple[float, ...]] = field(default_factory=list)
    suppression: list[tuple[float, float, float, float]] = field(default_factory=list)
    top_k: list[int] = field(default_factory=list)


def read_program(path: Path, label: str) -> Program | None:
    """The program in a file `saved_model.pb`; None where the file is missing or empty (the variables stand alone).

    Raises:
        InputError: too large, unreadable, or no SavedModel's protocol buffer.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise damaged(label, f"a graph of at most {MAX_BYTES} bytes", f"{size}")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{label}: expected a readable file, found: {error.strerror}; check its rights.") from error
    return _Reader(label).read(content) if content else None


class _Reader:
    """One pass over the bytes; every count is bounded."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.program = Program()
        self.nodes = 0

    def read(self, content: bytes) -> Program:
        graphs = [value for number, value in self._messages(content, (2,)) if number == 2]
        if not 0 < len(graphs) <= MAX_GRAPHS:
            raise damaged(self.where, f"a SavedModel of 1 to {MAX_GRAPHS} graphs", f"{len(graphs)}")
        for graph in graphs:
            for number, value in self._messages(graph, (1, 2, 5)):
                if number == 1:
                    self._meta(value)
                elif number == 2:
                    self._graph(value)
                else:
                    self._signature(value)
        return self.program

    def _messages(self, content: bytes, wanted: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
        """The fields of these numbers, which all hold messages or text."""
        for number, kind, value in fields(content, self.where):
            if number in wanted:
                yield number, message(kind, value, self.where)

    def _meta(self, content: bytes) -> None:
        for number, kind, value in fields(content, self.where):
            if number == 5:
                self.program.version = text(kind, value, self.where)[:100]

    def _signature(self, content: bytes) -> None:
        name, parts = "", {1: [], 2: []}  # type: tuple[str, dict[int, list[TensorSpec]]]
        for number, value in self._messages(content, (1, 2)):
            if number == 1:
                name = text(2, value, self.where)[:200]
                continue
            for part, entry in self._messages(value, (1, 2)):
                parts[part].append(self._tensor_spec(entry))
        if len(self.program.signatures) >= MAX_SIGNATURES:
            raise damaged(self.where, f"at most {MAX_SIGNATURES} signatures", "more")
        self.program.signatures[name] = Signature(tuple(parts[1]), tuple(parts[2]))

    def _tensor_spec(self, content: bytes) -> TensorSpec:
        name, dtype, shape = "", 0, None  # type: tuple[str, int, tuple[int, ...] | None]
        for number, value in self._messages(content, (1, 2)):
            if number == 1:
                name = text(2, value, self.where)[:200]
                continue
            for inner, kind, item in fields(value, self.where):
                if inner == 2:
                    dtype = integer(kind, item, self.where)
                elif inner == 3:
                    shape = self._shape(message(kind, item, self.where))
        return TensorSpec(name, dtype, shape)

    def _shape(self, content: bytes) -> tuple[int, ...] | None:
        sizes = []
        for number, kind, value in fields(content, self.where):
            if number == 2:
                size = 0
                for inner, inner_kind, item in fields(message(kind, value, self.where), self.where):
                    if inner == 1:
                        size = integer(inner_kind, item, self.where)
                sizes.append(size)
            elif number == 3 and integer(kind, value, self.where):
                return None
        if len(sizes) > MAX_RANK or min(sizes, default=0) < -1:
            raise damaged(self.where, f"at most {MAX_RANK} sizes of -1 or more", f"{sizes[: MAX_RANK + 1]}")
        return tuple(sizes)

    def _graph(self, content: bytes) -> None:
        main: list[bytes] = []
        for number, value in self._messages(content, (1, 2)):
            if number == 1:
                main.append(value)
                continue
            for _, function in self._messages(value, (1,)):
                self._nodes([node for _, node in self._messages(function, (3,))])
        self._nodes(main)

    def _nodes(self, nodes: list[bytes]) -> None:
        """The nodes of one function; constants are known by their names in it."""
        self.nodes += len(nodes)
        if self.nodes > MAX_NODES:
            raise damaged(self.where, f"at most {MAX_NODES} operations", "more")
        constants: dict[str, tuple[float, ...]] = {}
        used: list[tuple[str, str]] = []
        settings: list[list[str]] = []
        for node in nodes:
            name, operation, inputs, attributes = self._node(node)
            self.program.operations[operation] += 1
            if operation == "Const":
                self._constant(name, attributes, constants)
            elif operation in _BINARY and len(inputs) == 2:
                used.append((operation, inputs[1].partition(":")[0]))
            elif operation in _SUPPRESSION or operation == "TopKV2":
                settings.append([name.partition(":")[0] for name in inputs])
        for operation, name in used:
            found = self.program.subtracted if operation == "Sub" else self.program.divided_by
            if len(constants.get(name, ())) == 3 and constants[name] not in found:
                found.append(constants[name])
        for inputs in settings:
            self._settings([constants[name][0] for name in inputs if len(constants.get(name, ())) == 1], len(inputs))

    def _settings(self, values: list[float], inputs: int) -> None:
        """Those of a suppression, or of a choice of the largest; where all are constants."""
        if inputs == 2 and len(values) == 1 and math.isfinite(values[0]):
            if int(values[0]) not in self.program.top_k[:MAX_KINDS]:
                self.program.top_k.append(int(values[0]))
        elif inputs in (5, 6) and len(values) == inputs - 2:
            found = (values[0], values[1], values[2], values[3] if inputs == 6 else 0.0)
            if found not in self.program.suppression[:MAX_KINDS]:
                self.program.suppression.append(found)

    def _node(self, content: bytes) -> tuple[str, str, list[str], list[bytes]]:
        name, operation, inputs, attributes = "", "", [], []  # type: tuple[str, str, list[str], list[bytes]]
        for number, value in self._messages(content, (1, 2, 3, 5)):
            if number == 1:
                name = text(2, value, self.where)
            elif number == 2:
                operation = text(2, value, self.where)[:200]
            elif number == 3:
                inputs.append(text(2, value, self.where))
            else:
                attributes.append(value)
        return name, operation, inputs, attributes

    def _constant(self, name: str, attributes: list[bytes], constants: dict[str, tuple[float, ...]]) -> None:
        for attribute in attributes:
            pair = dict(self._messages(attribute, (1, 2)))
            if pair.get(1) != b"value":
                continue
            for _, tensor in self._messages(pair.get(2, b""), (8,)):
                array = self._tensor(tensor)
                if array is None:
                    continue
                if array.ndim == 2 and array.shape[1] == 4:
                    if not any(np.array_equal(array, known) for known in self.program.boxes):
                        self.program.boxes.append(array)
                elif array.shape in ((), (1, 1, 3), (3,), (1, 1, 1, 3)):
                    constants[name] = tuple(float(value) for value in array.ravel())

    def _tensor(self, content: bytes) -> np.ndarray | None:
        """A constant of one of the shapes wanted, as float32; None for others."""
        dtype, raw, values = 0, b"", b""
        shape: tuple[int, ...] | None = None
        for number, kind, value in fields(content, self.where):
            if number == 1:
                dtype = integer(kind, value, self.where)
            elif number == 2:
                shape = self._shape(message(kind, value, self.where))
            elif number == 4:
                raw = message(kind, value, self.where)
            elif number == 5:
                values += value if isinstance(value, bytes) else _four_bytes(value)
            elif number == 7:  # whole numbers; a scalar has one
                one = read_varint(value, 0, len(value), self.where)[0] if isinstance(value, bytes) else value
                values += _four_bytes(one)
        if shape == () and dtype in (FLOAT, WHOLE) and len(raw or values) == 4:
            return np.frombuffer(raw or values, "<f4" if dtype == FLOAT else "<i4").reshape(()).astype(np.float32)
        wanted = dtype == FLOAT and shape and (shape[-1] == 4 and len(shape) == 2 or prod(shape) == 3)
        if not wanted or shape is None or min(shape) < 1:
            return None
        count = prod(shape)
        if count > MAX_CONSTANT or len(raw) not in (0, 4 * count) or len(values) % 4:
            raise damaged(self.where, f"{4 * count} bytes for a constant {list(shape)}", f"{len(raw or values)}")
        array = np.frombuffer(raw or values, "<f4")
        if not 0 < array.size <= count:
            return None
        if array.size < count:  # the last value stands for the rest
            array = np.concatenate([array, np.full(count - array.size, array[-1], np.float32)])
        return array.reshape(shape).astype(np.float32)


def _four_bytes(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")
