"""Suppression in ONNX operators, for a batch of images at once; what each profile does is said in `nms_groups`.

Soft-NMS has no operator in ONNX: it is a Loop that picks, of every image, the best candidate left and lets it lower the
others, at most max_output_size times. Hard suppression is the operator
NonMaxSuppression; of equal scores it keeps the first place, where numpy's sort, in `numpy_hard`, may keep another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.nms import CLASS_OFFSET
from effdet_model.nms_profiles import NmsProfile
from export.graph.candidates import CandidateNames, FlatOutputs, candidates, decoded, exponential, sigmoid
from export.graph.nodes import Nodes
from export.outputs import BOXES, CLASSES, NUM_DETECTIONS, SCORES

_GONE = -1.0
"""The score of what was picked or suppressed; real ones are never negative."""


def suppress(nodes: Nodes, config: EfficientDetConfig, flat: FlatOutputs, profile: NmsProfile) -> None:
    """Append selection and suppression, with the outputs `export.outputs.DETECTION_OUTPUTS`."""
    if profile.max_candidates is None:
        corners, classes, scores = _combined(nodes, config, flat, profile)
    else:
        found = candidates(nodes, config, flat, profile)
        picks = _hard if profile.method == "hard" else _one_by_one
        picked, scores = picks(nodes, profile, found)
        corners = [nodes("GatherElements", side, picked, axis=1) for side in found.corners]
        classes = nodes("GatherElements", found.classes, picked, axis=1)
    top, left, bottom, right = corners
    if profile.clip:
        zero, high, wide = (nodes.constant(value) for value in (0, *config.image_size))
        top, bottom = (nodes("Clip", side, zero, high) for side in (top, bottom))
        left, right = (nodes("Clip", side, zero, wide) for side in (left, right))
    sides = [nodes("Unsqueeze", side, nodes.indices(-1)) for side in (left, top, right, bottom)]
    ids = nodes("Add", classes, nodes.constant(CLASS_OFFSET, np.int64))
    outputs(nodes, nodes("Concat", *sides, axis=-1), scores, ids)


def outputs(nodes: Nodes, boxes: str, scores: str, ids: str) -> None:
    """Name the outputs; rows whose score is negative are no detections and become zeros."""
    zero = nodes.constant(0.0)
    valid = nodes("GreaterOrEqual", scores, zero)
    nodes.named(nodes("ReduceSum", nodes.cast(valid, "INT64"), nodes.indices(1), keepdims=0), NUM_DETECTIONS)
    nodes.named(nodes("Where", nodes("Unsqueeze", valid, nodes.indices(-1)), boxes, zero), BOXES)
    nodes.named(nodes("Where", valid, scores, zero), SCORES)
    nodes.named(nodes("Where", valid, ids, nodes.constant(0, np.int64)), CLASSES)


def _hard(nodes: Nodes, profile: NmsProfile, found: CandidateNames) -> tuple[str, str]:
    """(places among the candidates, scores): [N, max_output_size], best first; of equal scores the first place."""
    corners = found.corners
    if profile.family == "numpy":  # areas are one pixel larger on both sides: so are these boxes
        one = nodes.constant(1.0)
        corners = (*corners[:2], *(nodes("Add", side, one) for side in corners[2:]))
    scores = nodes("Unsqueeze", found.scores, nodes.indices(1))
    if profile.per_class:
        numbers = nodes.constant(np.arange(found.num_classes)[None, :, None], np.int64)
        mine = nodes("Equal", nodes("Unsqueeze", found.classes, nodes.indices(1)), numbers)
        scores = nodes("Where", mine, scores, nodes.constant(_GONE))
    kept = nodes("Gather", _operator(nodes, profile, corners, scores), nodes.indices(0, 2), axis=1)
    nothing = nodes("Add", nodes("Mul", found.scores, nodes.constant(0.0)), nodes.constant(_GONE))
    survivors = nodes("ScatterND", nothing, kept, nodes("GatherND", found.scores, kept))
    return _best(nodes, profile, survivors, found.count)


def _operator(nodes: Nodes, profile: NmsProfile, corners: Sequence[str], scores: str) -> str:
    """NonMaxSuppression: int64 [n, 3] (image, class, box) of what is kept; boxes are the same for all classes."""
    boxes = nodes("Concat", *(nodes("Unsqueeze", side, nodes.indices(-1)) for side in corners), axis=-1)
    floor = _GONE / 2 if profile.score_threshold is None else profile.score_threshold
    name: str = nodes(
        "NonMaxSuppression", boxes, scores, nodes.indices(profile.max_output_size),
        nodes.constant([profile.iou_threshold]), nodes.constant([floor]), center_point_box=0,
    )  # fmt: skip
    return name


def _combined(
    nodes: Nodes, config: EfficientDetConfig, flat: FlatOutputs, profile: NmsProfile
) -> tuple[list[str], str, str]:
    """(corners, classes, scores) [N, max_output_size] where all pairs of anchor and class are candidates."""
    corners = decoded(nodes, flat.regressions, nodes.constant(anchors_from_config(config)[None]))
    scores = nodes("Transpose", sigmoid(nodes, flat.logits), perm=[0, 2, 1])
    kept = _operator(nodes, profile, corners, scores)
    nothing = nodes("Add", nodes("Mul", scores, nodes.constant(0.0)), nodes.constant(_GONE))
    survivors = nodes("ScatterND", nothing, kept, nodes("GatherND", scores, kept))
    survivors = nodes("Reshape", survivors, nodes.indices(0, -1))
    places, best = _best(nodes, profile, survivors, flat.anchors * flat.num_classes)
    count = nodes.constant(flat.anchors, np.int64)
    anchors = nodes("Mod", places, count)
    return [nodes("GatherElements", side, anchors, axis=1) for side in corners], nodes("Div", places, count), best


def _best(nodes: Nodes, profile: NmsProfile, scores: str, count: int) -> tuple[str, str]:
    """(places, scores) [N, max_output_size] of the highest of [N, count]."""
    limit = min(profile.max_output_size, count)
    values, places = nodes("TopK", scores, nodes.indices(limit), axis=1, outputs=2)
    return _padded(nodes, places, values, profile.max_output_size, limit)


def _padded(nodes: Nodes, places: str, scores: str, limit: int, count: int) -> tuple[str, str]:
    if count == limit:
        return places, scores
    pads = nodes.indices(0, 0, 0, limit - count)
    return (
        nodes("Pad", places, pads, nodes.constant(0, np.int64)),
        nodes("Pad", scores, pads, nodes.constant(_GONE)),
    )


@dataclass(frozen=True)
class _Boxes:
    """Names of values [N, K] that do not change from pick to pick."""

    low: tuple[str, str]
    high: tuple[str, str]
    areas: str
    classes: str


def _one_by_one(nodes: Nodes, profile: NmsProfile, found: CandidateNames) -> tuple[str, str]:
    """(places among the candidates, scores): [N, max_output_size], in the order of picking, scores -1 at the end."""
    import onnx

    boxes = _boxes(nodes, profile, found)
    scores = found.scores
    if profile.family == "graph" and profile.score_threshold is not None:
        enough = nodes("Greater", scores, nodes.constant(profile.score_threshold))
        scores = nodes("Where", enough, scores, nodes.constant(_GONE))
    zero = nodes.constant(0.0)
    ranks = nodes("Add", nodes("Mul", scores, zero), nodes.constant(np.arange(found.count, dtype=np.float32)[None]))
    body = nodes.part()
    state = [body.name(name) for name in ("step", "going", "scores", "ranks")]
    place, best, left, ranks_left = _pick(body, profile, boxes, state[2], state[3])
    going = body("Squeeze", body("GreaterOrEqual", body("ReduceMax", left, keepdims=1), zero), nodes.indices(0, 1))
    tensor = onnx.helper.make_tensor_value_info
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT)
    shapes: tuple[list[int | None], ...] = ([], [], [None, found.count], [None, found.count])
    given = [tensor(name, kind, shape) for name, kind, shape in zip(state, kinds, shapes, strict=True)]
    results = [
        tensor(going, kinds[1], []), tensor(left, kinds[2], shapes[2]), tensor(ranks_left, kinds[3], shapes[3]),
        tensor(place, kinds[0], [None]), tensor(best, kinds[2], [None]),
    ]  # fmt: skip
    graph = onnx.helper.make_graph(body.nodes, nodes.name("picks"), given, results)
    most = nodes.constant(profile.max_output_size, np.int64)
    start = nodes.constant(True, np.bool_)  # one round at least: what no round made has no batch size
    *_, places, values = nodes("Loop", most, start, scores, ranks, outputs=4, body=graph)
    places, values = (nodes("Transpose", value, perm=[1, 0]) for value in (places, values))
    missing = nodes("Sub", nodes.indices(profile.max_output_size), nodes("Shape", values, start=1))
    pads = nodes("Concat", nodes.indices(0, 0, 0), missing, axis=0)
    return (
        nodes("Pad", places, pads, nodes.constant(0, np.int64)),
        nodes("Pad", values, pads, nodes.constant(_GONE)),
    )


def _boxes(nodes: Nodes, profile: NmsProfile, found: CandidateNames) -> _Boxes:
    y0, x0, y1, x1 = found.corners
    low, high = (y0, x0), (y1, x1)
    if profile.family == "graph":
        pairs = ((y0, y1), (x0, x1))
        low = tuple(nodes("Min", *pair) for pair in pairs)
        high = tuple(nodes("Max", *pair) for pair in pairs)
    lengths = [_length(nodes, profile, *pair) for pair in zip(low, high, strict=True)]
    return _Boxes(low, high, nodes("Mul", *lengths), found.classes)


def _length(nodes: Nodes, profile: NmsProfile, low: str, high: str) -> str:
    """high - low, and one pixel more where the profile counts so."""
    length: str = nodes("Sub", high, low)
    return nodes("Add", length, nodes.constant(1.0)) if profile.family == "numpy" else length


def _pick(body: Nodes, profile: NmsProfile, boxes: _Boxes, scores: str, ranks: str) -> tuple[str, str, str, str]:
    """(place int64 [N], score [N], scores left [N, K], ranks left) of one pick in every image; score -1: nothing left.

    Of equal scores the lowest rank is picked. Ranks are places, but in the numpy family the first candidate left of a
    class gets the rank of the picked one: the official loop moves its row there.
    """
    best = body("ReduceMax", scores, body.indices(1), keepdims=1)
    place = _first(body, body("Equal", scores, best), ranks)
    mine = ""
    if profile.per_class:
        mine = body("Equal", boxes.classes, body("GatherElements", boxes.classes, place, axis=1))
    if profile.family == "numpy" and profile.method != "diou":
        ranks = _with_first_moved(body, scores, ranks, place, mine)
    weights = _weights(body, profile, _overlaps(body, profile, boxes, place), boxes, place)
    lowered = body("Mul", scores, weights)
    gone = body.constant(_GONE)
    threshold = body.constant(0.0 if profile.score_threshold is None else profile.score_threshold)
    stays = body("GreaterOrEqual" if profile.family == "numpy" else "Greater", lowered, threshold)
    left = body("Where", stays, lowered, gone)
    left = body("Where", mine, left, scores) if mine else left
    left = body("ScatterElements", left, place, body("Add", body("Mul", best, body.constant(0.0)), gone), axis=1)
    one = body.indices(1)
    return body("Squeeze", place, one), body("Squeeze", best, one), left, body("Identity", ranks)


def _first(body: Nodes, among: str, ranks: str) -> str:
    """[N, 1]: the place with the lowest rank among some."""
    name: str = body("ArgMin", body("Where", among, ranks, body.constant(np.inf)), axis=1, keepdims=1)
    return name


def _with_first_moved(body: Nodes, scores: str, ranks: str, place: str, mine: str) -> str:
    alive = body("GreaterOrEqual", scores, body.constant(0.0))
    first = _first(body, body("And", alive, mine) if mine else alive, ranks)
    name: str = body("ScatterElements", ranks, first, body("GatherElements", ranks, place, axis=1), axis=1)
    return name


def _overlaps(body: Nodes, profile: NmsProfile, boxes: _Boxes, place: str) -> str:
    """Intersection over union of the picked box with all, [N, K]."""
    zero = body.constant(0.0)
    lengths = []
    for low, high in zip(boxes.low, boxes.high, strict=True):
        start = body("Max", low, body("GatherElements", low, place, axis=1))
        end = body("Min", high, body("GatherElements", high, place, axis=1))
        lengths.append(body("Max", _length(body, profile, start, end), zero))
    shared = body("Mul", *lengths)
    both = body("Add", boxes.areas, body("GatherElements", boxes.areas, place, axis=1))
    name: str = body("Div", shared, body("Sub", both, shared))
    return name


def _weights(body: Nodes, profile: NmsProfile, overlaps: str, boxes: _Boxes, place: str) -> str:
    """What scores are multiplied with, [N, K]."""
    one = body.constant(1.0)
    limit = body.constant(profile.iou_threshold)
    if profile.method == "linear":
        above = body("Greater", overlaps, limit)
        return str(body("Where", above, body("Sub", one, overlaps), one))
    if profile.method == "diou":
        apart = body("Sub", overlaps, _relative_distance(body, boxes, place))
        return str(body("Where", body("LessOrEqual", apart, limit), one, body.constant(np.nan)))
    if profile.family == "numpy":
        exponents = body("Div", body("Mul", overlaps, overlaps), body.constant(-np.float32(profile.sigma)))
    else:
        scale = np.float32(-0.5) / np.float32(profile.sigma / 2)
        exponents = body("Mul", body("Mul", body.constant(scale), overlaps), overlaps)
    weights = exponential(body, exponents)
    if profile.soft_cut:
        weights = body("Where", body("LessOrEqual", overlaps, limit), weights, body.constant(0.0))
    if profile.family == "graph":
        area = body("GatherElements", boxes.areas, place, axis=1)
        weights = body("Where", body("LessOrEqual", area, body.constant(0.0)), one, weights)
    return weights


def _relative_distance(body: Nodes, boxes: _Boxes, place: str) -> str:
    """Squared distance of centres over squared diagonal of the enclosing box, of the picked box and all, [N, K]."""
    two, distances, diagonals = body.constant(2.0), [], []
    for low, high in zip(boxes.low, boxes.high, strict=True):
        my_low, my_high = (body("GatherElements", side, place, axis=1) for side in (low, high))
        side = body("Sub", body("Max", high, my_high), body("Min", low, my_low))
        center = body("Div", body("Add", low, high), two)
        offset = body("Sub", body("GatherElements", center, place, axis=1), center)
        distances.append(body("Mul", offset, offset))
        diagonals.append(body("Mul", side, side))
    least = body("Add", body("Add", *diagonals), body.constant(1e-10))
    name: str = body("Div", body("Add", *distances), least)
    return name
