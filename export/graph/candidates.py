"""From levels to candidates in ONNX operators: what `effdet_model.selection` does, for a batch of images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.nms_profiles import NmsProfile
from export.graph.nodes import Nodes

MOST_PAIRS = 2**31 - 1
"""Pairs of anchor and class are numbered with 32 bits in some runtimes."""


@dataclass(frozen=True)
class CandidateNames:
    """Names of values [N, K], in ascending order of (class, anchor), or of (anchor, class) where all classes are one.

    corners: y0, x0, y1, x1 float32 in pixels of the model's input. scores: float32. classes: int64, class index.
    count: K. num_classes: of the model.
    """

    corners: tuple[str, str, str, str]
    scores: str
    classes: str
    count: int
    num_classes: int


@dataclass(frozen=True)
class FlatOutputs:
    """Names of the network's outputs as [N, anchors, values]; best: [N, anchors], the highest logit of each."""

    logits: str
    regressions: str
    best: str
    anchors: int
    num_classes: int


def flat_outputs(nodes: Nodes, config: EfficientDetConfig, classes: Sequence[str], boxes: Sequence[str]) -> FlatOutputs:
    """All levels [N, A * values, h, w] together, in the order of the anchors."""
    count = config.num_classes
    anchors = len(anchors_from_config(config))
    logits = [_rows(nodes, level, count) for level in classes]
    regressions = [_rows(nodes, level, 4) for level in boxes]
    best = [_best(nodes, level, count, config.anchors_per_location) for level in classes]
    return FlatOutputs(
        nodes("Concat", *logits, axis=1), nodes("Concat", *regressions, axis=1), nodes("Concat", *best, axis=1),
        anchors, count,
    )  # fmt: skip


def candidates(nodes: Nodes, config: EfficientDetConfig, flat: FlatOutputs, profile: NmsProfile) -> CandidateNames:
    """The best pairs of anchor and class, decoded; equal logits at the limit: the lower (anchor, class) first."""
    pairs = flat.anchors * flat.num_classes
    if pairs > MOST_PAIRS:
        raise InputError(
            f"export: expected at most {MOST_PAIRS} pairs of anchor and class, found {pairs}; choose a smaller image "
            "size, or --nms none."
        )
    anchors, classes, logits, count = _chosen(nodes, flat, profile)
    anchors, classes, logits = _sorted(nodes, flat, profile, anchors, classes, logits, count)
    regressions = nodes("GatherND", flat.regressions, nodes("Unsqueeze", anchors, nodes.indices(-1)), batch_dims=1)
    table = anchors_from_config(config)
    corners = decoded(nodes, regressions, nodes("Gather", nodes.constant(table), anchors, axis=0))
    return CandidateNames(corners, sigmoid(nodes, logits), classes, count, flat.num_classes)


def decoded(nodes: Nodes, regressions: str, anchors: str) -> tuple[str, str, str, str]:
    """y0, x0, y1, x1 [N, K] of regressions [N, K, 4] against anchors [N, K, 4], in the order of `decode_boxes`."""
    y0, x0, y1, x1 = _columns(nodes, anchors)
    ty, tx, th, tw = _columns(nodes, regressions)
    two = nodes.constant(2.0)
    sides = []
    for low, high, move, grow in ((y0, y1, ty, th), (x0, x1, tx, tw)):
        length = nodes("Sub", high, low)
        half = nodes("Div", nodes("Mul", exponential(nodes, grow), length), two)
        center = nodes("Add", nodes("Mul", move, length), nodes("Div", nodes("Add", low, high), two))
        sides.append((nodes("Sub", center, half), nodes("Add", center, half)))
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def exponential(nodes: Nodes, value: str) -> str:
    """exp in float64, rounded once, where the runtime has float64."""
    name: str = nodes.cast(nodes("Exp", nodes.cast(value, "DOUBLE")), "FLOAT")
    return name


def sigmoid(nodes: Nodes, logits: str) -> str:
    """In float64, rounded once, where the runtime has float64."""
    one = nodes.constant(1.0, np.float64)
    grown = nodes("Exp", nodes("Neg", nodes.cast(logits, "DOUBLE")))
    name: str = nodes.cast(nodes("Div", one, nodes("Add", one, grown)), "FLOAT")
    return name


def _chosen(nodes: Nodes, flat: FlatOutputs, profile: NmsProfile) -> tuple[str, str, str, int]:
    """(anchors, classes, logits, count): [N, K] each."""
    if profile.max_candidates == 0:
        classes = nodes("ArgMax", flat.logits, axis=2, keepdims=0)
        numbers = nodes.constant(np.arange(flat.anchors)[None], np.int64)
        anchors = nodes("Add", numbers, nodes("Mul", classes, nodes.constant(0, np.int64)))
        return anchors, classes, flat.best, flat.anchors
    count = min(profile.max_candidates or flat.anchors * flat.num_classes, flat.anchors * flat.num_classes)
    logits, kept = flat.logits, ""
    if flat.anchors > count:  # no anchor whose best class is not among the best can have one of the pairs
        _, places = nodes("TopK", flat.best, nodes.indices(count), axis=1, outputs=2)
        kept, _ = nodes("TopK", places, nodes.indices(count), axis=1, largest=0, outputs=2)
        logits = nodes("GatherND", logits, nodes("Unsqueeze", kept, nodes.indices(-1)), batch_dims=1)
    values = nodes("Reshape", logits, nodes.indices(0, -1))
    values, pairs = nodes("TopK", values, nodes.indices(count), axis=1, outputs=2)
    size = nodes.constant(flat.num_classes, np.int64)
    rows, classes = nodes("Div", pairs, size), nodes("Mod", pairs, size)
    anchors = nodes("GatherElements", kept, rows, axis=1) if kept else rows
    return anchors, classes, values, count


def _sorted(
    nodes: Nodes, flat: FlatOutputs, profile: NmsProfile, anchors: str, classes: str, logits: str, count: int
) -> tuple[str, str, str]:
    major, minor, size = (classes, anchors, flat.anchors) if profile.per_class else (anchors, classes, flat.num_classes)
    key = nodes("Add", nodes("Mul", major, nodes.constant(size, np.int64)), minor)
    _, order = nodes("TopK", key, nodes.indices(count), axis=1, largest=0, outputs=2)
    anchors, classes, logits = (nodes("GatherElements", value, order, axis=1) for value in (anchors, classes, logits))
    return anchors, classes, logits


def _columns(nodes: Nodes, rows: str) -> list[str]:
    return [nodes("Gather", rows, nodes.constant(i, np.int64), axis=2) for i in range(4)]


def _rows(nodes: Nodes, level: str, values: int) -> str:
    last: Any = nodes("Transpose", level, perm=[0, 2, 3, 1])
    name: str = nodes("Reshape", last, nodes.indices(0, -1, values))
    return name


def _best(nodes: Nodes, level: str, values: int, shapes: int) -> str:
    """[N, anchors of the level], reduced before anything is moved."""
    split = nodes("Reshape", level, nodes.indices(0, shapes, values, -1))
    best = nodes("ReduceMax", split, nodes.indices(2), keepdims=0)
    name: str = nodes("Reshape", nodes("Transpose", best, perm=[0, 2, 1]), nodes.indices(0, -1))
    return name
