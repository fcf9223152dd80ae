"""ONNX nodes written one after the other: the few lines between `onnx.helper` and code that reads like arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class Nodes:
    """Nodes in the order of evaluation, with the constants that they use.

    `nodes("Mul", a, b)` appends a node and gives its output's name. A part for the body of a loop (`part`) sees the
    names of what it was made from, and puts its constants there.

    Attributes:
        nodes: `onnx.NodeProto`, in order. constants: `onnx.TensorProto`, shared with all parts.
    """

    def __init__(self, prefix: str = "detections", whole: Nodes | None = None) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = whole.constants if whole else []
        self._known: dict[tuple[Any, ...], str] = whole._known if whole else {}
        self._numbers: Any = whole._numbers if whole else itertools.count()

    def __call__(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Append a node; its output's name, or a list of names where there are several."""
        import onnx

        names = [self.name(operator) for _ in range(outputs)]
        self.nodes.append(
            onnx.helper.make_node(operator, list(inputs), names, name=names[0], domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant; equal ones are one."""
        import onnx

        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.name("constant")
            self.constants.append(onnx.numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def indices(self, *values: int) -> str:
        """A constant int64 [n]: axes, shapes, sizes."""
        return self.constant(values, np.int64)

    def cast(self, value: str, dtype: str) -> str:
        """The values in another dtype, by its ONNX name: "FLOAT", "DOUBLE", "INT64", "BOOL"."""
        import onnx

        name: str = self("Cast", value, to=getattr(onnx.TensorProto, dtype))
        return name

    def part(self) -> Nodes:
        """Nodes for the body of a loop."""
        return Nodes(self.prefix, self)

    def named(self, value: str, name: str) -> None:
        """Give a value a name of its own, as outputs have."""
        import onnx

        self.nodes.append(onnx.helper.make_node("Identity", [value], [name], name=f"{self.prefix}/{name}"))

    def name(self, what: str) -> str:
        """A new name."""
        return f"{self.prefix}/{what}_{next(self._numbers)}"

    def used_constants(self) -> list[Any]:
        """The constants that a node, or one in the body of a loop, takes."""
        used = set(_inputs(self.nodes))
        return [constant for constant in self.constants if constant.name in used]


def _inputs(nodes: Iterable[Any]) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _inputs(attribute.g.node)
            yield from (output.name for output in attribute.g.output)
