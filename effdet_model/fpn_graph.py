"""The feature network as a graph: which node takes which features.

Nodes are numbered from the input features on: inputs 0 .. num_levels - 1 (finest first), then one number
per node in list order. Graphs: BiFPN (EfficientDet paper, https://arxiv.org/abs/1911.09070), QuFPN
(https://ieeexplore.ieee.org/document/9225379), PAN (https://arxiv.org/abs/1803.01534), or a user's own list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from effdet_model.errors import InputError, shown, unknown_name

WEIGHT_METHODS = ("fastattn", "attn", "sum", "channel_attn", "channel_fastattn")

_SUFFIXES = {
    "fa": "fastattn",
    "attn": "attn",
    "sum": "sum",
    "dyn": None,
    "ca": "channel_attn",
    "cfa": "channel_fastattn",
}


def feature_sizes(image_size: tuple[int, int], max_level: int) -> list[tuple[int, int]]:
    """(height, width) of the feature map of every level 0..max_level: each level halves, rounding up."""
    height, width = image_size
    sizes = [(height, width)]
    for _ in range(max_level):
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


@dataclass(frozen=True)
class FpnNode:
    """One node: features `inputs_offsets` are brought to `feat_level`'s size, fused and convolved.

    `tf_index` is the node's place in TensorFlow's list, which numbers its variables; it differs from the
    place here only for QuFPN, whose last row effdet writes finest first and google/automl coarsest first.
    """

    feat_level: int
    inputs_offsets: tuple[int, ...]
    weight_method: str
    tf_index: int


@dataclass(frozen=True)
class FpnGraph:
    """A feature network cell.

    Attributes:
        nodes: in order of evaluation.
        output_nodes: for each level, finest first, the place in `nodes` of its last node.
    """

    nodes: tuple[FpnNode, ...]
    output_nodes: tuple[int, ...]


def build_fpn_graph(
    name: str | None,
    min_level: int,
    max_level: int,
    weight_method: str | None = None,
    fpn_config: Mapping[str, Any] | None = None,
) -> FpnGraph:
    """The graph of a name (bifpn, qufpn, pan; also bifpn_fa, bifpn_sum, ... as effdet writes them) or node list.

    Args:
        name: None means bifpn. The names with a suffix weigh the last row of QuFPN by fastattn, as effdet does.
        weight_method: how a node weighs its inputs; None means the name's suffix, or fastattn.
        fpn_config: a graph of one's own, {"nodes": [{"feat_level": 6, "inputs_offsets": [3, 4]}, ...],
            "weight_method": "sum"}; takes the place of `name`. As in google/automl, its "weight_method" holds
            for all nodes; where it has none, a node's own counts, as in effdet.

    Raises:
        InputError: the name is unknown, or the node list makes no graph.
    """
    if fpn_config:
        return _user_graph(fpn_config, min_level, max_level, weight_method)
    base, _, suffix = (name or "bifpn").partition("_")
    if base not in _BUILDERS or (suffix and suffix not in _SUFFIXES):
        raise unknown_name("fpn_name", name, FPN_NAMES)
    method = weight_method or _SUFFIXES.get(suffix) or "fastattn"
    rows, order = _BUILDERS[base](min_level, max_level)
    effdet_quad_row = base == "qufpn" and suffix and not weight_method
    methods = [method] * len(rows)
    if effdet_quad_row:
        num_levels = max_level - min_level + 1
        methods[-num_levels:] = ["fastattn"] * num_levels
    nodes = tuple(
        FpnNode(level, tuple(offsets), node_method, tf_index)
        for (level, offsets), node_method, tf_index in zip(rows, methods, order, strict=True)
    )
    return FpnGraph(nodes, _output_nodes(nodes, min_level, max_level))


Row = tuple[int, list[int]]


class _Numbering:
    """Hands out node numbers and remembers, for each level, those given so far."""

    def __init__(self, min_level: int, max_level: int) -> None:
        self.at = {level: [i] for i, level in enumerate(range(min_level, max_level + 1))}
        self.rows: list[Row] = []
        self._next = len(self.at)

    def add(self, level: int, offsets: Sequence[int]) -> None:
        self.rows.append((level, list(offsets)))
        self.at[level].append(self._next)
        self._next += 1


def _bifpn(low: int, high: int) -> tuple[list[Row], list[int]]:
    n = _Numbering(low, high)
    for level in range(high - 1, low - 1, -1):
        n.add(level, [n.at[level][-1], n.at[level + 1][-1]])
    for level in range(low + 1, high + 1):
        n.add(level, [*n.at[level], n.at[level - 1][-1]])
    return n.rows, list(range(len(n.rows)))


def _pan(low: int, high: int) -> tuple[list[Row], list[int]]:
    n = _Numbering(low, high)
    for level in range(high, low - 1, -1):
        n.add(level, [n.at[level][-1]] + ([n.at[level + 1][-1]] if level < high else []))
    for level in range(low, high + 1):
        n.add(level, [n.at[level][-1]] + ([n.at[level - 1][-1]] if level > low else []))
    return n.rows, list(range(len(n.rows)))


def _qufpn(low: int, high: int) -> tuple[list[Row], list[int]]:
    """Top-down then bottom-up (paths 1, 2), bottom-up then top-down (paths 3, 4), and their sum."""
    n = _Numbering(low, high)
    first = {level: ids[0] for level, ids in n.at.items()}
    path: dict[int, dict[int, int]] = {1: dict(first), 2: {}, 3: dict(first), 4: {}}

    def add(number: int, level: int, offsets: Sequence[int]) -> None:
        n.add(level, offsets)
        path[number][level] = n.at[level][-1]

    for level in range(high - 1, low - 1, -1):
        add(1, level, [first[level], path[1][level + 1]])
    path[2][low] = path[1][low]
    for level in range(low + 1, high):
        add(2, level, [first[level], path[1][level], path[2][level - 1]])
    add(2, high, [first[high], path[2][high - 1]])
    for level in range(low + 1, high + 1):
        add(3, level, [first[level], path[3][level - 1]])
    path[4][high] = path[3][high]
    for level in range(high - 1, low, -1):
        add(4, level, [first[level], path[3][level], path[4][level + 1]])
    add(4, low, [first[low], path[4][low + 1]])
    before = len(n.rows)
    for level in range(low, high + 1):
        n.add(level, [path[2][level], path[4][level]])
    return n.rows, [*range(before), *range(len(n.rows) - 1, before - 1, -1)]


_BUILDERS = {"bifpn": _bifpn, "qufpn": _qufpn, "pan": _pan}

FPN_NAMES = (*_BUILDERS, *(f"{base}_{suffix}" for base in _BUILDERS for suffix in _SUFFIXES))
"""Names of graphs, without a way to weigh inputs and with one."""


def _user_graph(
    config: Mapping[str, Any], min_level: int, max_level: int, weight_method: str | None
) -> FpnGraph:
    listed = config.get("nodes")
    unknown = set(config) - {"nodes", "weight_method", "quad_method"}
    if unknown:
        raise unknown_name("fpn_config key", sorted(unknown, key=str)[0], ["nodes", "weight_method"])
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise InputError(f"fpn_config: expected a list of nodes under 'nodes', found {shown(listed)}.")
    default = weight_method or "fastattn"
    for_all = config.get("weight_method")
    nodes = []
    for index, entry in enumerate(listed):
        available = max_level - min_level + 1 + index
        node = _user_node(entry, index, available, min_level, max_level, for_all or default)
        nodes.append(replace(node, weight_method=for_all) if for_all else node)
    return FpnGraph(tuple(nodes), _output_nodes(tuple(nodes), min_level, max_level))


def _user_node(entry: Any, index: int, available: int, low: int, high: int, default: str) -> FpnNode:
    where = f"fpn_config node {index}"
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: expected feat_level and inputs_offsets, found {shown(entry)}.")
    unknown = set(entry) - {"feat_level", "inputs_offsets", "weight_method"}
    if unknown:
        raise unknown_name(
            f"key of {where}", sorted(unknown, key=str)[0], ["feat_level", "inputs_offsets", "weight_method"]
        )
    level, offsets, method = entry.get("feat_level"), entry.get("inputs_offsets"), entry.get("weight_method")
    if not isinstance(level, int) or not low <= level <= high:
        raise InputError(f"{where}: expected feat_level from {low} to {high}, found {shown(level)}.")
    good = isinstance(offsets, Sequence) and len(offsets) > 0 and not isinstance(offsets, str)
    if not good or not all(isinstance(o, int) and 0 <= o < available for o in offsets or ()):
        raise InputError(
            f"{where}: expected inputs_offsets from 0 to {available - 1} (features that exist so far), "
            f"found {shown(offsets)}."
        )
    if (method or default) not in WEIGHT_METHODS:
        raise unknown_name(f"weight_method of {where}", str(method or default), WEIGHT_METHODS)
    return FpnNode(level, tuple(offsets or ()), method or default, index)


def _output_nodes(nodes: tuple[FpnNode, ...], min_level: int, max_level: int) -> tuple[int, ...]:
    last = {node.feat_level: index for index, node in enumerate(nodes)}
    missing = [level for level in range(min_level, max_level + 1) if level not in last]
    if missing:
        raise InputError(
            f"fpn graph: expected at least one node at every level from {min_level} to {max_level}, "
            f"found none at {', '.join(map(str, missing))}; add nodes or change min_level and max_level."
        )
    return tuple(last[level] for level in range(min_level, max_level + 1))


def resample_keys(inputs_offsets: Sequence[int]) -> list[str]:
    """The ModuleDict key of each input: its offset, as in effdet; a repeated offset gets its place added."""
    return [
        str(offset) if offset not in inputs_offsets[:i] else f"{offset}_{i}"
        for i, offset in enumerate(inputs_offsets)
    ]
