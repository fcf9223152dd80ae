"""Which tensors a layer has on both sides, paired by order of use, and the layouts they may be in.

This shares nothing with `mappings`: it knows the order of execution and what a leaf's name says of its kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from effdet_model import EfficientDet


@dataclass(frozen=True)
class TensorPair:
    """A PyTorch tensor and the TensorFlow variables that TensorFlow used in its place.

    Attributes:
        key: of the state_dict. value: the tensor as float32.
        role: the variables' last name part, or "edge_weights".
    """

    key: str
    value: np.ndarray
    variables: tuple[str, ...]
    role: str

    @property
    def label(self) -> str:
        """The variables' names, shortened where there are several."""
        return self.variables[0] if len(self.variables) == 1 else f"{self.variables[0]} and those after it"


def pair_tensors(model: EfficientDet, layer: str, variables: Sequence[str]) -> list[TensorPair]:
    """Pairs of a layer; empty where both sides do not have the same number of tensors.

    Args:
        layer: stable name. variables: TensorFlow names in the order of use.
    """
    tensors = list(_tensors(model, layer))
    groups = list(_groups(variables))
    if len(tensors) != len(groups):
        return []
    return [
        TensorPair(key, value, tuple(group), "edge_weights" if _is_edge(group[0]) else group[0].rsplit("/", 1)[1])
        for (key, value), group in zip(tensors, groups, strict=True)
    ]


def _is_edge(variable: str) -> bool:
    return variable.rsplit("/", 1)[1].startswith("WSM")


def _groups(variables: Sequence[str]) -> Iterator[list[str]]:
    """One list per tensor: all edge weights of a node belong to one."""
    for edge, group in itertools.groupby(variables, _is_edge):
        if edge:
            yield list(group)
        else:
            yield from ([name] for name in group)


def _tensors(model: EfficientDet, layer: str) -> Iterator[tuple[str, np.ndarray]]:
    """A layer's tensors in the order of execution; modules are registered in that order, edge weights first."""
    state = model.state_dict()
    keys = [key for prefix in _prefixes(model, layer) for key in state if key.startswith(f"{prefix}.")]
    keys = [key for key in keys if not key.endswith("num_batches_tracked")]
    edges = [key for key in keys if key.endswith("edge_weights")]
    if edges:
        keys.remove(edges[0])
        place = next(i for i, key in enumerate(keys) if ".after_combine." in key)
        keys.insert(place, edges[0])
    for key in keys:
        yield key, state[key].detach().cpu().float().numpy()


def _prefixes(model: EfficientDet, layer: str) -> list[str]:
    """Names of the modules that compute a layer."""
    config = model.config
    part = layer.split(".")
    if layer == "backbone.stem":
        return ["backbone.conv_stem", "backbone.bn1"]
    if part[0] == "backbone":
        return [layer]
    if part[:2] == ["fpn", "input"]:
        return [f"fpn.resample.{int(part[-1]) - config.min_level}"]
    if part[0] == "fpn":
        return [layer]
    if part[1] == "predict":
        return [f"{part[0]}.predict"]
    net, repeat, place = part[0], int(part[2]), int(part[4]) - config.min_level
    norm = f"{net}.bn_rep.{place}.{repeat}" if config.head_bn_level_first else f"{net}.bn_rep.{repeat}.{place}"
    return [f"{net}.conv_rep.{repeat}", norm]


def expected_layout(pair: TensorPair, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The pair's TensorFlow arrays as PyTorch must hold them, by the kind that the variable's name declares."""
    if pair.role == "edge_weights":
        return np.stack(list(arrays))
    if pair.role == "depthwise_kernel":
        return arrays[0].transpose(2, 3, 0, 1)
    if pair.role in ("kernel", "pointwise_kernel"):
        return arrays[0].transpose(3, 2, 0, 1)
    return arrays[0]


def layouts(
    pair: TensorPair, arrays: Sequence[np.ndarray], own: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """What else the arrays could have been turned into, with words for it; the right layout too where `own`."""
    if pair.role == "edge_weights":
        for order in itertools.permutations(range(len(arrays))):
            if list(order) != sorted(order):
                yield f"in the order {', '.join(map(str, order))}", np.stack([arrays[i] for i in order])
        return
    array = arrays[0]
    if array.ndim != 4:
        if own and array.shape == pair.value.shape:
            yield "", array
        return
    kind = "depthwise_kernel" if pair.role == "depthwise_kernel" else "kernel"
    right = (2, 3, 0, 1) if kind == "depthwise_kernel" else (3, 2, 0, 1)
    if own:
        yield "", array.transpose(right)
    if pair.value.ndim != 4:
        return
    known: dict[tuple[int, ...], str] = {right[:2] + (right[3], right[2]): "height and width swapped",
             (right[1], right[0]) + right[2:]: "input and output channels swapped"}
    for order in itertools.permutations(range(4)):
        turned = array.transpose(order)
        if order != right and turned.shape == pair.value.shape:
            yield known.get(order, f"axes in the order {order}"), turned
    flipped = array.transpose(right)[:, :, ::-1, ::-1]
    if flipped.shape == pair.value.shape:
        yield "height and width reversed", flipped
    if array.size == pair.value.size:
        yield "its values reshaped instead of transposed", array.reshape(pair.value.shape)


def agrees(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether both have the same shape and values; the same NaN counts as the same."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))
