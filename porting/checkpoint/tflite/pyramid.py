"""The feature network of a graph: cells of a known wiring, matched from their outputs back to the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from effdet_model.fpn_graph import FpnGraph, build_fpn_graph
from porting.checkpoint.tflite.walk import Conv, Walk

MAX_CELLS = 32
TOP = 5
"""The backbone's last level; those above are made of it."""
_MAX_INPUTS = 5
_WIRINGS = (None, "qufpn")
"""Names of the graphs that TensorFlow's EfficientDet has."""


@dataclass(frozen=True)
class Edge:
    """One input of a node.

    Attributes:
        offset: the feature's number in the wiring. feature: its tensor.
        conv: what brings it to the network's width. factors: what it is multiplied by; none: the product lies in the
            convolution that makes `taken`, the tensor before scaling and resizing.
    """

    offset: int
    feature: int
    conv: Conv | None
    factors: tuple[float, ...]
    taken: int


@dataclass(frozen=True)
class Node:
    """A node: its inputs in the order of the wiring, and its two convolutions."""

    number: int
    edges: tuple[Edge, ...]
    depthwise: Conv
    pointwise: Conv
    activation: str


@dataclass(frozen=True)
class Cell:
    """A cell: its nodes in the order of evaluation, the tensors of its inputs, finest first."""

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    seen: frozenset[int]


@dataclass
class Pyramid:
    """All cells, first one first; for each level above the backbone the convolution that makes it, if any.

    Attributes:
        conv_after_downsample: whether a feature is made smaller before it is brought to the network's width; None
            where no feature is both.
    """

    name: str | None
    graph: FpnGraph
    cells: tuple[Cell, ...]
    features: tuple[int, ...]
    extra: dict[int, Conv]
    conv_after_downsample: bool | None
    seen: set[int] = field(default_factory=set)


def find_pyramid(walk: Walk, outputs: Sequence[int], levels: Sequence[int]) -> Pyramid | None:
    """The feature network with these outputs, finest first; None where its operators are others."""
    for name in _WIRINGS:
        graph = build_fpn_graph(name, levels[0], levels[-1])
        cells: list[Cell] = []
        inputs: Sequence[int] = outputs
        while len(cells) < MAX_CELLS and (cell := _Matcher(walk, graph, levels, False).cell(inputs)):
            cells.append(cell)
            inputs = cell.inputs
        last = _Matcher(walk, graph, levels, True)
        first = last.cell(inputs)
        if first is None and cells:  # the first cell looks like the others where nothing has to be brought to a width
            continue
        if first is not None:
            cells.append(first)
            found = Pyramid(name, graph, tuple(reversed(cells)), (), {}, last.late)
            if _add_levels(walk, found, levels):
                return found
    return None


def _add_levels(walk: Walk, found: Pyramid, levels: Sequence[int]) -> bool:
    """Follow the levels above the backbone down to its last one."""
    inputs = found.cells[0].inputs
    features = [number for number, level in zip(inputs, levels, strict=True) if level <= TOP]
    for place in range(len(levels) - 1, len(features) - 1, -1):
        below = inputs[place - 1]
        number = walk.origin(inputs[place], found.seen)
        late = walk.plain_pointwise(number, found.seen)
        if late is not None:
            number = late.source
        pool = walk.pooled(number, found.seen)
        if pool is not None:
            number = pool
        early = walk.plain_pointwise(number, found.seen) if number != below else None
        if early is not None:
            number = early.source
        if number != below or (early and late):
            return False
        conv = early or late
        if conv is not None:
            found.extra[levels[place]] = conv
            if pool is not None:
                found.conv_after_downsample = late is not None
    found.features = tuple(features)
    for cell in found.cells:
        found.seen |= cell.seen
    return bool(features)


class _Matcher:
    """One cell against a wiring. `first`: the cell that takes the backbone's features, each through a convolution."""

    def __init__(self, walk: Walk, graph: FpnGraph, levels: Sequence[int], first: bool) -> None:
        self.walk, self.graph, self.levels, self.first = walk, graph, levels, first
        self.late: bool | None = None

    def cell(self, outputs: Sequence[int]) -> Cell | None:
        count = len(self.levels)
        bound = {count + place: number for place, number in zip(self.graph.output_nodes, outputs, strict=True)}
        return self._nodes(len(self.graph.nodes) - 1, bound, (), frozenset())

    def _nodes(
        self, place: int, bound: Mapping[int, int], behind: tuple[Node, ...], seen: frozenset[int]
    ) -> Cell | None:
        """Match the nodes up to `place`; those behind are matched."""
        count = len(self.levels)
        if place < 0:
            if set(range(count)) <= set(bound):
                return Cell(behind, tuple(bound[offset] for offset in range(count)), seen)
            return None
        own = bound.get(count + place)
        if own is None:
            return None
        passed: set[int] = set()
        opened = self._open(own, passed)
        node = self.graph.nodes[place]
        if opened is None or len(opened[3]) != len(node.inputs_offsets):
            return None
        pointwise, depthwise, activation, summands = opened
        for order in permutations(summands) if len(summands) <= _MAX_INPUTS else ():
            now, edges, used = dict(bound), [], set(passed)
            for offset, number in zip(node.inputs_offsets, order, strict=True):
                edge = self._edge(offset, node.feat_level, number, used)
                if edge is None or now.setdefault(offset, edge.feature) != edge.feature:
                    break
                edges.append(edge)
            else:
                made = Node(place, tuple(edges), depthwise, pointwise, activation)
                cell = self._nodes(place - 1, now, (made, *behind), seen | used)
                if cell is not None:
                    return cell
        return None

    def _open(self, number: int, seen: set[int]) -> tuple[Conv, Conv, str, list[int]] | None:
        pointwise = self.walk.plain_pointwise(number, seen)
        depthwise = self.walk.convolution(pointwise.source, seen, depthwise=True) if pointwise else None
        if pointwise is None or depthwise is None or depthwise.operator.options["activation"]:
            return None
        total, activation = self.walk.activation(depthwise.source, seen)
        summands = self.walk.summands(total, seen) if activation else []
        return (pointwise, depthwise, activation, summands) if activation and summands else None

    def _level(self, offset: int) -> int:
        count = len(self.levels)
        return self.levels[offset] if offset < count else self.graph.nodes[offset - count].feat_level

    def _edge(self, offset: int, level: int, number: int, seen: set[int]) -> Edge | None:
        """Follow one input of a node at `level` back to the feature that it is."""
        own = self._level(offset)
        number, factors = self.walk.scaled(number, seen)
        widened = self.first and offset < len(self.levels) and own <= TOP
        late = self.walk.plain_pointwise(number, set()) if widened and own < level else None
        resized = late.source if late else number
        if own != level:
            before_it = self.walk.enlarged(resized, seen) if own > level else self.walk.pooled(resized, seen)
            if before_it is not None:
                resized = before_it
                if late:
                    seen.add(late.operator.place)
                    self.late = True
                    return Edge(offset, resized, late, tuple(factors), number)
                number, before = self.walk.scaled(resized, seen)
                factors = [*before, *factors]
            elif self.walk.place(number) != (1, 1):  # two levels of one cell each need no resizing
                return None
        if not widened:
            return Edge(offset, number, None, tuple(factors), number)
        conv = self.walk.plain_pointwise(number, seen)
        if conv is None or self.walk.tensor(conv.source).shape[-1:] == self.walk.tensor(number).shape[-1:]:
            return None
        if own < level:
            self.late = False
        return Edge(offset, conv.source, conv, tuple(factors), number)
