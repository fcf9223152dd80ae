"""The feature network's nodes for the TensorFlow reference, numbered as TensorFlow numbers its variables.

Source: google/automl `tf2/fpn_configs.py` and `efficientdet_arch.py` (6a54c87). Nothing here is shared with
the PyTorch side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """One node: `inputs` are numbers of features (pyramid inputs first, then nodes in TensorFlow's order).

    `number` is the node's place in TensorFlow's list, `stable` the one in its stable name.
    """

    number: int
    stable: int
    level: int
    inputs: tuple[int, ...]
    method: str


def nodes(config: Mapping[str, Any]) -> list[Node]:
    """The nodes of one cell in TensorFlow's order, for a config's plain values.

    Raises:
        KeyError: TensorFlow has no feature network of that name.
    """
    low, high = config["min_level"], config["max_level"]
    method = config.get("fpn_weight_method")
    own = config.get("fpn_config")
    if own:
        return _listed(own, method)
    name, _, suffix = (config.get("fpn_name") or "bifpn").partition("_")
    method_by_name = _METHOD_BY_SUFFIX[suffix]
    if name == "bifpn":
        entries = _two_paths(low, high)
        methods = [method or method_by_name] * len(entries)
        return _numbered(entries, methods, list(range(len(entries))))
    if name != "qufpn":
        raise KeyError(config["fpn_name"])
    entries = _four_paths(low, high)
    count, levels = len(entries), high - low + 1
    methods = [method or method_by_name] * count
    if suffix and not method:
        methods[-levels:] = ["fastattn"] * levels
    stable = list(range(count - levels)) + [count - levels + level - low for level, _ in entries[-levels:]]
    return _numbered(entries, methods, stable)


_METHOD_BY_SUFFIX = {
    "": "fastattn", "dyn": "fastattn", "fa": "fastattn", "attn": "attn", "sum": "sum", "ca": "channel_attn",
    "cfa": "channel_fastattn",
}

Entry = tuple[int, list[int]]


def _numbered(entries: list[Entry], methods: list[str], stable: list[int]) -> list[Node]:
    return [
        Node(number, stable[number], level, tuple(inputs), methods[number])
        for number, (level, inputs) in enumerate(entries)
    ]


def _listed(own: Mapping[str, Any], method: str | None) -> list[Node]:
    """A user's list; its top-level weight_method holds for all nodes, as the official code reads it."""
    common = own.get("weight_method")
    return [
        Node(
            number, number, int(entry["feat_level"]), tuple(entry["inputs_offsets"]),
            common or entry.get("weight_method") or method or "fastattn",
        )
        for number, entry in enumerate(own["nodes"])
    ]


def _two_paths(low: int, high: int) -> list[Entry]:
    """BiFPN: down through the levels, then up."""
    entries: list[Entry] = []
    history = {level: [level - low] for level in range(low, high + 1)}
    feature = high - low + 1
    for level in reversed(range(low, high)):
        entries.append((level, [history[level][-1], history[level + 1][-1]]))
        history[level].append(feature)
        feature += 1
    for level in range(low + 1, high + 1):
        entries.append((level, history[level] + [history[level - 1][-1]]))
        history[level].append(feature)
        feature += 1
    return entries


def _four_paths(low: int, high: int) -> list[Entry]:
    """QuFPN: down and up, up and down, then the sum of both, coarsest level first.

    Every level gets one column with five places: input, path 1, path 2, path 3, path 4. Where a path passes a
    level without a node, the feature before it counts as its own.
    """
    entries: list[Entry] = []
    column: dict[int, dict[int, int]] = {level: {0: level - low} for level in range(low, high + 1)}

    def node(level: int, path: int, inputs: list[int]) -> None:
        column[level][path] = high - low + 1 + len(entries)
        entries.append((level, inputs))

    column[high][1] = column[high][0]
    for level in range(high - 1, low - 1, -1):
        node(level, 1, [column[level][0], column[level + 1][1]])
    column[low][2] = column[low][1]
    for level in range(low + 1, high + 1):
        own = [column[level][0]] if level == high else [column[level][0], column[level][1]]
        node(level, 2, [*own, column[level - 1][2]])
    column[low][3] = column[low][0]
    for level in range(low + 1, high + 1):
        node(level, 3, [column[level][0], column[level - 1][3]])
    column[high][4] = column[high][3]
    for level in range(high - 1, low - 1, -1):
        own = [column[level][0]] if level == low else [column[level][0], column[level][3]]
        node(level, 4, [*own, column[level + 1][4]])
    for level in range(high, low - 1, -1):
        node(level, 5, [column[level][2], column[level][4]])
    return entries
