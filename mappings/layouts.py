"""How an array changes its layout between TensorFlow and PyTorch, by declared kind (never by rank)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """One kind of tensor.

    Attributes:
        to_pytorch: TensorFlow arrays of one row -> the PyTorch array (a view where it can be).
        to_tensorflow: the PyTorch array -> TensorFlow arrays, as many as the row has variables.
        tensorflow_shape: PyTorch shape -> the shape of each TensorFlow variable.
        meaning: axis orders, for people.
    """

    to_pytorch: Callable[[Sequence[Array]], Array]
    to_tensorflow: Callable[[Array], list[Array]]
    tensorflow_shape: Callable[[Shape], Shape]
    meaning: str


LAYOUTS: dict[str, Layout] = {}


def register(kind: str, layout: Layout) -> None:
    """Add a kind; a second one of the same name is a mistake."""
    if kind in LAYOUTS:
        raise ValueError(f"layout kind {kind!r} is registered twice")
    LAYOUTS[kind] = layout


_HWIO_TO_OIHW = Layout(
    lambda arrays: arrays[0].transpose(3, 2, 0, 1),
    lambda array: [array.transpose(2, 3, 1, 0)],
    lambda shape: (shape[2], shape[3], shape[1], shape[0]),
    "[h, w, in, out] -> [out, in, h, w]",
)
_AS_IS = Layout(lambda arrays: arrays[0], lambda array: [array], lambda shape: shape, "[channels] -> [channels]")

register("conv", _HWIO_TO_OIHW)
register("pointwise", _HWIO_TO_OIHW)
register(
    "depthwise",
    Layout(
        lambda arrays: arrays[0].transpose(2, 3, 0, 1),
        lambda array: [array.transpose(2, 3, 0, 1)],
        lambda shape: (shape[2], shape[3], shape[0], shape[1]),
        "[h, w, channels, 1] -> [channels, 1, h, w]",
    ),
)
register("bias", _AS_IS)
register("batch_norm", _AS_IS)
register(
    "edge_weight",
    Layout(
        lambda arrays: np.stack(arrays),
        lambda array: list(array),
        lambda shape: shape[1:],
        "one variable ([] or [channels]) per input -> [inputs] or [inputs, channels]",
    ),
)
register(
    "counter",
    Layout(lambda arrays: np.zeros((), np.int64), lambda array: [], lambda shape: shape, "PyTorch only: 0"),
)
