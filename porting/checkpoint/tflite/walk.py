"""Small steps through a graph, from a tensor back to what made it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from effdet_model.errors import InputError
from porting.checkpoint.tflite.flatbuffer import Graph, Operator, Tensor, decoded

_COPIES = ("QUANTIZE", "DEQUANTIZE")
_ALONE = {"RELU": "relu", "RELU6": "relu6", "HARD_SWISH": "hswish"}


@dataclass(frozen=True)
class Conv:
    """A convolution: the tensor that it makes and takes, its operator, and the tensors of kernel and bias."""

    output: int
    source: int
    operator: Operator
    kernel: int
    bias: int | None
    size: tuple[int, int]


class Walk:
    """Steps back through one graph. `seen` collects the places of operators that the steps passed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def tensor(self, number: int) -> Tensor:
        return self.graph.tensors[number]

    def place(self, number: int) -> tuple[int, int]:
        """(height, width) of a feature map; (0, 0) where it is none."""
        shape = self.tensor(number).shape
        return (shape[1], shape[2]) if len(shape) == 4 else (0, 0)

    def producer(self, number: int) -> Operator | None:
        return self.graph.producers.get(number)

    def origin(self, number: int, seen: set[int]) -> int:
        """The tensor itself, before copies into another precision."""
        while (operator := self.producer(number)) and operator.name in _COPIES and self.constant(number) is None:
            seen.add(operator.place)
            number = operator.inputs[0]
        return number

    def made_by(self, number: int, name: str) -> Operator | None:
        """The operator of this name that makes a tensor."""
        operator = self.producer(number)
        return operator if operator is not None and operator.name == name else None

    def constant(self, number: int) -> Tensor | None:
        """The constant that a tensor is, or is a copy of in another precision."""
        tensor = self.tensor(number)
        operator = self.producer(number)
        if tensor.content is None and operator is not None and operator.name == "DEQUANTIZE":
            tensor = self.tensor(operator.inputs[0])
        return tensor if tensor.content is not None else None

    def value(self, number: int) -> np.ndarray:
        """A constant's values, float64."""
        tensor = self.constant(number)
        assert tensor is not None, "asked of constants alone"
        try:
            return decoded(tensor)
        except KeyError as error:
            raise InputError(
                f"expected constants of float32, float16 or whole numbers of 8 to 64 bits, found {tensor.type}; "
                "convert the model again in one of these."
            ) from error

    def activation(self, number: int, seen: set[int]) -> tuple[int, str | None]:
        """What goes into the activation that makes a tensor, and its name; the tensor itself and None without one.

        An activation inside of an operator leaves the tensor as it is.
        """
        number = self.origin(number, seen)
        operator = self.producer(number)
        if operator is None:
            return number, None
        if operator.name in _ALONE:
            seen.add(operator.place)
            return self.origin(operator.inputs[0], seen), _ALONE[operator.name]
        if operator.name == "MUL" and len(operator.inputs) == 2:
            for one, other in (operator.inputs, operator.inputs[::-1]):
                passed = {operator.place}
                sigmoid = self.made_by(self.origin(other, passed), "LOGISTIC")
                value = self.origin(one, passed)
                if sigmoid and self.origin(sigmoid.inputs[0], passed) == value:
                    seen |= passed | {sigmoid.place}
                    return value, "swish"
        return number, operator.options.get("activation")

    def convolution(self, number: int, seen: set[int], depthwise: bool = False) -> Conv | None:
        """The convolution that makes a tensor, with any activation inside; None where it is another operator."""
        operator = self.made_by(number, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D")
        if operator is None or len(operator.inputs) < 2:
            return None
        kernel = self.constant(operator.inputs[1])
        bias = operator.inputs[2] if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
        if kernel is None or len(kernel.shape) != 4 or (bias is not None and self.constant(bias) is None):
            return None
        channels = self.tensor(number).shape[-1] if len(self.tensor(number).shape) == 4 else 0
        size = kernel.shape[1], kernel.shape[2]
        plain = operator.options["padding"] == "SAME" or size == (1, 1)
        fits = kernel.shape[3 if depthwise else 0] == channels and (not depthwise or kernel.shape[0] == 1)
        taken = self.tensor(self.origin(operator.inputs[0], set())).shape
        if not depthwise and kernel.shape[3:] != taken[-1:]:
            return None
        if not (plain and fits) or operator.options.get("dilation", (1, 1)) != (1, 1):
            return None
        if bias is not None and prod(self.tensor(bias).shape) != channels:
            return None
        seen.add(operator.place)
        for constant in operator.inputs[1:]:  # kept in another precision
            if constant >= 0 and (copy := self.producer(constant)):
                seen.add(copy.place)
        return Conv(number, self.origin(operator.inputs[0], seen), operator, operator.inputs[1], bias, size)

    def plain_pointwise(self, number: int, seen: set[int]) -> Conv | None:
        """A 1 x 1 convolution of stride 1 without an activation behind it."""
        found, activation = self.activation(number, seen)
        conv = self.convolution(found, seen) if activation is None else None
        return conv if conv and conv.size == (1, 1) and conv.operator.options["stride"] == (1, 1) else None

    def pooled(self, number: int, seen: set[int]) -> int | None:
        """What google/automl's max pooling (one wider than its stride) makes a tensor of; None of other operators."""
        operator = self.made_by(number, "MAX_POOL_2D")
        if operator is None or operator.options["padding"] != "SAME" or operator.options["activation"]:
            return None
        if operator.options["filter"] != tuple(stride + 1 for stride in operator.options["stride"]):
            return None
        seen.add(operator.place)
        return self.origin(operator.inputs[0], seen)

    def enlarged(self, number: int, seen: set[int]) -> int | None:
        """What a resize to the nearest neighbour, as google/automl has it, makes a tensor of; None of others."""
        operator = self.made_by(number, "RESIZE_NEAREST_NEIGHBOR")
        if operator is None or operator.options["align_corners"]:
            return None
        (high, wide), (low, narrow) = self.place(number), self.place(operator.inputs[0])
        if not (low and narrow) or operator.options["half_pixels"] and (high % low or wide % narrow):
            return None
        seen.add(operator.place)
        return self.origin(operator.inputs[0], seen)

    def scaled(self, number: int, seen: set[int]) -> tuple[int, list[float]]:
        """What is multiplied by single numbers, one after the other, and these numbers, the first one first."""
        factors: list[float] = []
        number = self.origin(number, seen)
        while (operator := self.producer(number)) and operator.name in ("MUL", "DIV") and len(operator.inputs) == 2:
            one, other = operator.inputs
            if operator.name == "MUL" and self.constant(one) is not None:
                one, other = other, one
            constant = self.constant(other)
            if constant is None or prod(constant.shape) != 1 or operator.options["activation"]:
                break
            factor = float(self.value(other).ravel()[0])
            factors.insert(0, factor if operator.name == "MUL" else 1.0 / factor if factor else 0.0)
            seen.add(operator.place)
            if copy := self.producer(other):
                seen.add(copy.place)
            number = self.origin(one, seen)
        return number, factors

    def summands(self, number: int, seen: set[int]) -> list[int]:
        """What a sum adds, in order; the outermost addition may have an activation in it."""
        operator = self.producer(number)
        if operator is None or operator.name not in ("ADD", "ADD_N"):
            return []
        return list(self._flat(operator, seen))

    def _flat(self, operator: Operator, seen: set[int]) -> Iterator[int]:
        seen.add(operator.place)
        for number in operator.inputs:
            number = self.origin(number, seen)
            inner = self.producer(number)
            if inner and inner.name in ("ADD", "ADD_N") and not inner.options.get("activation"):
                yield from self._flat(inner, seen)
            else:
                yield number
