"""The prediction heads of a graph: which outputs are whose, and each level's tower of convolutions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effdet_model.errors import InputError
from effdet_model.fpn_graph import feature_sizes
from porting.checkpoint.tflite.flatbuffer import Graph, Operator
from porting.checkpoint.tflite.walk import Conv, Walk

POSTPROCESS = "TFLite_Detection_PostProcess"
MAX_REPEATS = 32
MAX_LEVELS = 8
_BEHIND = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "CONCATENATION", "LOGISTIC", "TRANSPOSE", POSTPROCESS)
"""Operators behind the predictions; each hands on its inputs."""
NETS = ("class_net", "box_net")


@dataclass(frozen=True)
class Layer:
    """A separable convolution of one level."""

    depthwise: Conv
    pointwise: Conv


@dataclass(frozen=True)
class Tower:
    """One net at one level: repeats first one first, the prediction, the feature that it takes."""

    repeats: tuple[Layer, ...]
    predict: Layer
    feature: int
    activations: frozenset[str]
    seen: frozenset[int]


@dataclass(frozen=True)
class Ends:
    """The graph's predictions: net -> tensors, finest level first; what lies behind them.

    Attributes:
        postprocess: the operator that decodes boxes and suppresses, where there is one.
    """

    predictions: Mapping[str, tuple[int, ...]]
    postprocess: Operator | None
    seen: frozenset[int]


def find_ends(walk: Walk, label: str) -> Ends:
    """The predictions that the graph's outputs are made of.

    Raises:
        InputError: other outputs than those of an EfficientDet, or two nets that cannot be told apart.
    """
    graph = walk.graph
    seen: set[int] = set()
    found: dict[int, str] = {}
    last: list[Operator] = []
    for number in graph.outputs:
        _follow(walk, number, "", found, seen, last)
    maps = [number for number in found if len(walk.tensor(number).shape) == 4]
    by_channels: dict[int, list[int]] = {}
    for number in maps:
        by_channels.setdefault(walk.tensor(number).shape[3], []).append(number)
    count, odd = divmod(len(maps), 2)
    if odd or not 1 < count <= MAX_LEVELS or len(maps) != len(found):
        some = [graph.tensors[number] for number in list(found)[:4]]
        shown = ", ".join(f"{tensor.name[:40]} {list(tensor.shape)}" for tensor in some)
        raise InputError(
            f"{label}: expected outputs made of class and box predictions of 2 to {MAX_LEVELS} levels, found "
            f"{len(found)} ({shown}); this is no EfficientDet with its heads."
        )
    nets = _told_apart(walk, maps, found, graph, label)
    ordered = {
        net: tuple(sorted(numbers, key=lambda number: _finest_first(walk, number))) for net, numbers in nets.items()
    }
    return Ends(ordered, last[0] if last else None, frozenset(seen))


def _finest_first(walk: Walk, number: int) -> tuple[int, int]:
    """Sort key: the larger map first, then the order of the work."""
    height, width = walk.place(number)
    producer = walk.producer(number)
    return -height * width, producer.place if producer else -1


def _follow(
    walk: Walk, number: int, told: str, found: dict[int, str], seen: set[int], last: list[Operator]
) -> None:
    """Collect the convolutions' outputs that a tensor is made of, with what the way to them tells of their net."""
    operator = walk.producer(number)
    if operator is None or operator.name not in _BEHIND:
        if walk.tensor(number).content is None:
            found.setdefault(number, told)
        return
    if operator.place in seen:
        return
    seen.add(operator.place)
    told = "class_net" if operator.name == "LOGISTIC" else told
    if operator.name == "RESHAPE" and walk.tensor(number).shape[-1:] == (4,):
        told = told or "box_net"
    inputs = operator.inputs[:1] if operator.name in ("RESHAPE", "TRANSPOSE") else operator.inputs
    if operator.name == POSTPROCESS:
        last.append(operator)
        inputs = operator.inputs[:2]
    for place, one in enumerate(inputs):
        own = NETS[1 - place] if operator.name == POSTPROCESS else told
        _follow(walk, one, own, found, seen, last)


def _told_apart(
    walk: Walk, maps: Sequence[int], found: Mapping[int, str], graph: Graph, label: str
) -> dict[str, list[int]]:
    """net -> its predictions, by what lies behind them, else by the signature's order, else by the channels."""
    half = len(maps) // 2
    groups: dict[str, list[int]] = {net: [number for number in maps if found[number] == net] for net in NETS}
    if [len(group) for group in groups.values()] == [half, half]:
        return groups
    names = {_before_copy(walk, number): name for number, name in graph.names.items()}
    if all(re.fullmatch(r"output_\d{1,3}", names.get(number, "")) for number in maps):
        in_order = sorted(maps, key=lambda number: int(names[number].rpartition("_")[2]))
        groups = {"class_net": in_order[:half], "box_net": in_order[half:]}
        if _plausible(walk, groups):
            return groups
    channels = sorted({walk.tensor(number).shape[3] for number in maps})
    readings = []
    for boxes in channels:
        groups = {
            "class_net": [number for number in maps if walk.tensor(number).shape[3] != boxes],
            "box_net": [number for number in maps if walk.tensor(number).shape[3] == boxes],
        }
        if _plausible(walk, groups):
            readings.append(groups)
    if len(readings) != 1:
        raise InputError(
            f"{label}: expected outputs of which one half is classes and one half boxes (4 for each anchor), found "
            f"{channels} channels, which can be read in {len(readings)} ways; convert the model again from its "
            "signature `predict`."
        )
    return readings[0]


def _before_copy(walk: Walk, number: int) -> int:
    return walk.origin(number, set())


def _plausible(walk: Walk, groups: Mapping[str, Sequence[int]]) -> bool:
    """Whether all maps of a net have the same channels, 4 a box, and both nets the same sizes."""
    channels = [{walk.tensor(number).shape[3] for number in numbers} for numbers in groups.values()]
    if any(len(own) != 1 for own in channels):
        return False
    classes, boxes = (own.pop() for own in channels)
    sizes = [sorted(walk.place(number) for number in numbers) for numbers in groups.values()]
    return boxes > 0 and boxes % 4 == 0 and classes % (boxes // 4) == 0 and classes > 0 and sizes[0] == sizes[1]


def find_levels(walk: Walk, predictions: Sequence[int], image_size: tuple[int, int], label: str) -> list[int]:
    """The levels of predictions, finest first: those whose sizes the image makes.

    Raises:
        InputError: sizes that are not those of neighbouring levels of this image.
    """
    sizes = [walk.place(number) for number in predictions]
    expected = feature_sizes(image_size, 16)
    for first in range(1, 10):
        if sizes == expected[first : first + len(sizes)]:
            return list(range(first, first + len(sizes)))
    raise InputError(
        f"{label}: expected predictions of neighbouring levels of an image of {image_size[0]}x{image_size[1]}, found "
        f"maps of {', '.join(f'{height}x{width}' for height, width in sizes)}; this is no EfficientDet."
    )


def find_tower(walk: Walk, number: int) -> Tower | None:
    """The tower that makes a prediction; None where the operators are others."""
    seen: set[int] = set()
    activations: set[str] = set()
    predict = _layer(walk, number, None, seen)
    if predict is None:
        return None
    repeats: list[Layer] = []
    source = predict.depthwise.source
    while len(repeats) < MAX_REPEATS:
        passed: set[int] = set()
        inner, activation = walk.activation(source, passed)
        layer = _layer(walk, inner, activation, passed) if activation else None
        if layer is None or activation is None:
            return Tower(tuple(reversed(repeats)), predict, source, frozenset(activations), frozenset(seen))
        seen |= passed
        activations.add(activation)
        repeats.append(layer)
        source = layer.depthwise.source
    return None


def _layer(walk: Walk, number: int, activation: str | None, seen: set[int]) -> Layer | None:
    pointwise = walk.convolution(number, seen)
    if pointwise is None or pointwise.size != (1, 1):
        return None
    own = pointwise.operator.options["activation"]
    depthwise = walk.convolution(pointwise.source, seen, depthwise=True)
    if depthwise is None or depthwise.operator.options["activation"] or own not in (None, activation):
        return None
    return Layer(depthwise, pointwise)
