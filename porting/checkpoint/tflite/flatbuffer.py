"""A .tflite file as data: tensors, constants, operators. It is parsed, never run.

Facts: tensorflow/compiler/mlir/lite/schema/schema.fbs; the tables are read with the package `tflite`. Every count,
size, index and type is checked before anything is made from it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.errors import InputError
from effdet_model.extras import needs

MAGIC = b"TFL3"
"""Bytes 4 to 8 of the file."""
MAX_BYTES = 2 << 30
MAX_TENSORS = MAX_OPERATORS = MAX_BUFFERS = 100_000
MAX_GRAPHS = 64
MAX_ENDS = 1000
"""Inputs or outputs of an operator or graph."""
MAX_RANK = 8
MAX_NAME = 1000
MAX_OPTIONS = 1 << 16
_TYPES = {
    "FLOAT32": "<f4", "FLOAT16": "<f2", "INT8": "|i1", "UINT8": "|u1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
}  # fmt: skip
_ACTIVATIONS = {0: None, 1: "relu", 3: "relu6"}
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError, OverflowError, UnicodeDecodeError)


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (stored - zero point), per channel along `axis` where there are several scales."""

    scales: np.ndarray
    zero_points: np.ndarray
    axis: int


@dataclass(frozen=True)
class Tensor:
    """One tensor; `content` is uint8 of the file where it is a constant."""

    name: str
    shape: tuple[int, ...]
    type: str
    content: np.ndarray | None
    quantisation: Quantisation | None


@dataclass(frozen=True)
class Operator:
    """One operator: TensorFlow Lite's name of it (a custom one's own), tensors by number, options that count here.

    `options`: "activation" (None, "relu", "relu6"), "stride", "padding" ("SAME", "VALID"), "filter", "dilation";
    "align_corners" and "half_pixels" of a resize.
    """

    place: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]
    custom: bytes = b""


@dataclass
class Graph:
    """The first subgraph of a file.

    Attributes:
        producers: tensor -> the operator that makes it. names: of outputs, in the signature where there is one.
        normalisation: mean and standard deviation of images, one number or three each, where the metadata say them.
    """

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    names: dict[int, str] = field(default_factory=dict)
    producers: dict[int, Operator] = field(default_factory=dict)
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def read_graph(path: Path, label: str) -> Graph:
    """The graph of a .tflite file.

    Raises:
        InputError: no whole model, more than one graph, or anything out of range.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{label}: expected a model of at most {MAX_BYTES} bytes, found {size}; name another.")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{label}: expected a readable file, found: {error.strerror}; check its rights.") from error
    with needs("tflite", label):
        import tflite
    try:
        return _Reader(content, label, tflite).read()
    except InputError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _refused(label, "a whole TFLite model", f"an offset or size outside of it ({reason})") from error


def _refused(label: str, expected: str, found: str) -> InputError:
    return InputError(f"{label}: expected {expected}, found {found}; copy or download the file again.")


class _Reader:
    def __init__(self, content: bytes, label: str, tflite: Any) -> None:
        self.content, self.label, self.tflite = content, label, tflite

    def read(self) -> Graph:
        if len(self.content) < 16 or self.content[4:8] != MAGIC:
            raise _refused(self.label, "a TFLite model (TFL3 at byte 4)", f"{self.content[:8]!r}")
        model = self.tflite.Model.GetRootAsModel(self.content, 0)
        graphs = self._count(model.SubgraphsLength(), MAX_GRAPHS, "graphs")
        if graphs != 1:
            raise InputError(
                f"{self.label}: expected one graph (a network without control flow), found {graphs}; convert the model "
                "again from its signature `predict`."
            )
        self._count(model.BuffersLength(), MAX_BUFFERS, "buffers")
        codes = self._count(model.OperatorCodesLength(), MAX_OPERATORS, "operator codes")
        names = [self._operator_name(model.OperatorCodes(number)) for number in range(codes)]
        raw = model.Subgraphs(0)
        graph = Graph()
        for number in range(self._count(raw.TensorsLength(), MAX_TENSORS, "tensors")):
            graph.tensors.append(self._tensor(model, raw.Tensors(number)))
        for number in range(self._count(raw.OperatorsLength(), MAX_OPERATORS, "operators")):
            graph.operators.append(self._operator(number, raw.Operators(number), names, len(graph.tensors)))
        graph.inputs = self._ends(raw.InputsLength(), raw.Inputs, len(graph.tensors))
        graph.outputs = self._ends(raw.OutputsLength(), raw.Outputs, len(graph.tensors))
        self._order(graph)
        graph.names = self._names(model, graph)
        graph.normalisation = self._normalisation(model)
        return graph

    def _count(self, count: int, most: int, what: str) -> int:
        if not 0 <= count <= most or 4 * count > len(self.content):
            raise _refused(self.label, f"at most {most} {what}", f"{count}")
        return count

    def _operator_name(self, code: Any) -> str:
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        builtin = _named(self.tflite.BuiltinOperator)
        if number not in builtin:
            raise InputError(
                f"{self.label}: expected operators that this reader's schema has (up to {max(builtin)}), found number "
                f"{number}; install a newer package `tflite`."
            )
        return self._text(code.CustomCode()) if builtin[number] == "CUSTOM" else builtin[number]

    def _text(self, value: bytes | None) -> str:
        return (value or b"")[:MAX_NAME].decode("utf-8", errors="replace")

    def _tensor(self, model: Any, raw: Any) -> Tensor:
        name, kind = self._text(raw.Name()), _named(self.tflite.TensorType).get(raw.Type(), str(raw.Type()))
        rank = self._count(raw.ShapeLength(), MAX_RANK, f"sizes of {name[:80]}")
        shape = tuple(int(raw.Shape(axis)) for axis in range(rank))
        if min(shape, default=0) < 0:
            raise _refused(self.label, f"sizes of 0 or more of {name[:80]}", f"{shape}")
        content = self._content(model, raw.Buffer(), name)
        if content is not None:
            if raw.Sparsity() is not None:
                raise self._unread(f"the sparse constant {name[:80]}")
            if kind in _TYPES and prod(shape) * np.dtype(_TYPES[kind]).itemsize != content.size:
                expected = prod(shape) * np.dtype(_TYPES[kind]).itemsize
                raise _refused(self.label, f"{expected} bytes for {name[:80]} {list(shape)}", f"{content.size}")
        return Tensor(name, shape, kind, content, self._quantisation(raw.Quantization(), shape, name))

    def _unread(self, what: str) -> InputError:
        return InputError(
            f"{self.label}: expected constants of float32, float16 or whole numbers of 8 to 64 bits, found {what}; "
            "convert the model again in one of these."
        )

    def _content(self, model: Any, number: int, name: str) -> np.ndarray | None:
        if not 0 <= number < model.BuffersLength():
            raise _refused(self.label, f"one of {model.BuffersLength()} buffers for {name[:80]}", f"number {number}")
        buffer = model.Buffers(number)
        offset, size = (buffer.Offset(), buffer.Size()) if hasattr(buffer, "Offset") else (0, 0)
        if offset > 1:  # data behind the tables, in files beyond 2 GB
            if offset + size > len(self.content):
                raise _refused(self.label, f"{offset + size} bytes for {name[:80]}", f"{len(self.content)}")
            return np.frombuffer(self.content, np.uint8, size, offset)
        length = buffer.DataLength()
        if not 0 <= length <= len(self.content):
            raise _refused(self.label, f"at most {len(self.content)} bytes for {name[:80]}", f"{length}")
        return np.asarray(buffer.DataAsNumpy(), np.uint8) if length else None

    def _quantisation(self, raw: Any, shape: tuple[int, ...], name: str) -> Quantisation | None:
        count = self._count(raw.ScaleLength(), MAX_BYTES, f"scales of {name[:80]}") if raw is not None else 0
        if not count:
            return None
        scales = np.array(raw.ScaleAsNumpy(), np.float64)
        zeros = raw.ZeroPointLength()
        points = np.array(raw.ZeroPointAsNumpy(), np.int64) if zeros else np.zeros(count, np.int64)
        axis = raw.QuantizedDimension()
        fits = count == 1 or (0 <= axis < len(shape) and shape[axis] == count)
        if not fits or len(points) not in (1, count) or not np.isfinite(scales).all() or (scales < 0).any():
            raise _refused(self.label, f"one scale >= 0, or one per channel, for {name[:80]} {list(shape)}", f"{count}")
        return Quantisation(scales, np.broadcast_to(points, (count,)), axis)

    def _operator(self, place: int, raw: Any, names: list[str], tensors: int) -> Operator:
        code = raw.OpcodeIndex()
        if not 0 <= code < len(names):
            raise _refused(self.label, f"one of {len(names)} operator codes", f"number {code}")
        inputs = self._ends(raw.InputsLength(), raw.Inputs, tensors, optional=True)
        outputs = self._ends(raw.OutputsLength(), raw.Outputs, tensors)
        custom = b""
        if raw.CustomOptionsLength():
            count = self._count(raw.CustomOptionsLength(), MAX_OPTIONS, "bytes of an operator's options")
            custom = np.asarray(raw.CustomOptionsAsNumpy(), np.uint8).tobytes()[:count]
        return Operator(place, names[code], inputs, outputs, self._options(names[code], raw.BuiltinOptions()), custom)

    def _ends(
        self, count: int, get: Callable[[int], int], tensors: int, optional: bool = False
    ) -> tuple[int, ...]:
        numbers = tuple(int(get(place)) for place in range(self._count(count, MAX_ENDS, "inputs or outputs")))
        for number in numbers:
            if not (-1 if optional else 0) <= number < tensors:
                raise _refused(self.label, f"one of {tensors} tensors", f"number {number}")
        return numbers

    def _options(self, name: str, table: Any) -> dict[str, Any]:
        kinds = {
            "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "ADD": "AddOptions",
            "MUL": "MulOptions", "DIV": "DivOptions", "MAX_POOL_2D": "Pool2DOptions",
            "AVERAGE_POOL_2D": "Pool2DOptions", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
        }  # fmt: skip
        if name not in kinds:
            return {}
        if table is None:
            raise _refused(self.label, f"options of {name}", "none")
        raw = getattr(self.tflite, kinds[name])()
        raw.Init(table.Bytes, table.Pos)
        if name == "RESIZE_NEAREST_NEIGHBOR":
            return {"align_corners": bool(raw.AlignCorners()), "half_pixels": bool(raw.HalfPixelCenters())}
        activation = raw.FusedActivationFunction()
        if activation not in _ACTIVATIONS:
            raise self._unknown_activation(name, activation)
        options: dict[str, Any] = {"activation": _ACTIVATIONS[activation]}
        if hasattr(raw, "StrideH"):
            options |= {"stride": (raw.StrideH(), raw.StrideW()), "padding": "VALID" if raw.Padding() else "SAME"}
        if hasattr(raw, "FilterHeight"):
            options["filter"] = (raw.FilterHeight(), raw.FilterWidth())
        if hasattr(raw, "DilationHFactor"):
            options["dilation"] = (raw.DilationHFactor(), raw.DilationWFactor())
        return options

    def _unknown_activation(self, name: str, activation: int) -> InputError:
        return InputError(
            f"{self.label}: expected operators with ReLU, ReLU6 or no activation in them, found {name} with number "
            f"{activation}; EfficientDet has no such."
        )

    def _order(self, graph: Graph) -> None:
        """Each tensor is made once, before it is used: no cycles."""
        ready = set(graph.inputs) | {-1}
        ready |= {number for number, tensor in enumerate(graph.tensors) if tensor.content is not None}
        for operator in graph.operators:
            early = [number for number in operator.inputs if number not in ready]
            if early:
                raise _refused(
                    self.label, f"operators in the order of their work ({operator.name} {operator.place})",
                    f"tensor {early[0]} before it is made",
                )  # fmt: skip
            for number in operator.outputs:
                if number in ready:
                    raise _refused(self.label, "each tensor made once", f"number {number} again")
                ready.add(number)
                graph.producers[number] = operator

    def _normalisation(self, model: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        from porting.checkpoint.tflite import metadata

        for place in range(self._count(model.MetadataLength(), MAX_ENDS, "metadata")):
            entry = model.Metadata(place)
            if self._text(entry.Name()) == metadata.NAME:
                content = self._content(model, entry.Buffer(), metadata.NAME)
                return metadata.normalisation(content.tobytes()) if content is not None else None
        return None

    def _names(self, model: Any, graph: Graph) -> dict[int, str]:
        """Outputs by their names in the one signature; those of their tensors where there is none."""
        if not hasattr(model, "SignatureDefsLength") or model.SignatureDefsLength() != 1:
            return {number: graph.tensors[number].name for number in graph.outputs}
        signature = model.SignatureDefs(0)
        count = self._count(signature.OutputsLength(), MAX_ENDS, "names")
        outputs = [signature.Outputs(place) for place in range(count)]
        return {output.TensorIndex(): self._text(output.Name()) for output in outputs}


@cache
def _named(kinds: Any) -> dict[int, str]:
    """A schema's enumeration by number."""
    return {number: name for name, number in vars(kinds).items() if isinstance(number, int)}


def decoded(tensor: Tensor) -> np.ndarray:
    """A constant as float64 (whole numbers without quantisation as they are).

    Raises:
        KeyError: a type that no constant of a network has.
    """
    assert tensor.content is not None, "only constants have values"
    stored = tensor.content.view(_TYPES[tensor.type]).reshape(tensor.shape)
    if tensor.quantisation is None:
        return stored.astype(np.float64) if stored.dtype.kind == "f" else stored
    scales, points, axis = tensor.quantisation.scales, tensor.quantisation.zero_points, tensor.quantisation.axis
    if len(scales) > 1:
        along = [1] * len(tensor.shape)
        along[axis] = len(scales)
        scales, points = scales.reshape(along), points.reshape(along)
    return (stored.astype(np.float64) - points) * scales


def types_of(tensors: Iterable[Tensor]) -> set[str]:
    """Which types the constants have."""
    return {tensor.type for tensor in tensors if tensor.content is not None}
