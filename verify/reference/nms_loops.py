"""Suppression as plain loops, class after class, until nothing is left: slow, and easy to compare with the sources.

The one reference in numpy: parity runs its numpy profiles, the tests hold `effdet_model.nms` against all of them, the
benchmark times them. Facts: google/automl nms_np.py (6a54c87) for the numpy profiles, TensorFlow's
NonMaxSuppressionV5 (2.21) for the graph profiles. It shares no code with `effdet_model`; a profile is given as plain
values, with the field names of `effdet_model.nms_profiles.NmsProfile`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Profile = Mapping[str, Any]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Picks = list[tuple[int, np.float32]]


def picks_by_class(profile: Profile, boxes: Floats, scores: Floats, classes: Indices) -> tuple[Indices, Floats]:
    """(indices of the candidates that are kept, their final scores), class after class, each in order of picking.

    Args:
        boxes: float32 [K, 4] yxyx. scores: float32 [K]. classes: [K], class index.
    """
    groups = np.unique(classes) if profile["per_class"] else [None]
    everything: Picks = []
    with np.errstate(all="ignore"):
        for group in groups:
            members = np.arange(len(scores)) if group is None else np.flatnonzero(classes == group)
            if len(members):
                picks = _one_class(profile, boxes[members], scores[members])
                everything += [(int(members[position]), score) for position, score in picks]
    indices, final = [index for index, _ in everything], [score for _, score in everything]
    return np.array(indices, np.int64), np.array(final, np.float32)


def best_picks(profile: Profile, boxes: Floats, scores: Floats, classes: Indices) -> tuple[Indices, Floats]:
    """The best max_output_size of `picks_by_class`, best first.

    Of equal scores the lower class, then the earlier, as TensorFlow's top_k; in the numpy family what the official
    call of numpy's default sort, on float64, makes of them.
    """
    picked, final = picks_by_class(profile, boxes, scores, classes)
    kind: Any = None if profile["family"] == "numpy" else "stable"
    best = np.argsort(-final.astype(np.float64), kind=kind)[: profile["max_output_size"]]
    return picked[best], final[best]


def _one_class(profile: Profile, boxes: Floats, scores: Floats) -> Picks:
    if profile["family"] == "graph":
        return _graph_loop(profile, boxes, scores)
    if profile["method"] in ("hard", "diou"):
        return _numpy_hard_loop(profile, boxes, scores)
    return _numpy_soft_loop(profile, boxes, scores)


def _numpy_overlaps(box: Floats, boxes: Floats) -> Floats:
    one = np.float32(1)
    y0, x0 = np.maximum(box[0], boxes[:, 0]), np.maximum(box[1], boxes[:, 1])
    y1, x1 = np.minimum(box[2], boxes[:, 2]), np.minimum(box[3], boxes[:, 3])
    shared = np.maximum(x1 - x0 + one, 0) * np.maximum(y1 - y0 + one, 0)
    area = (box[3] - box[1] + one) * (box[2] - box[0] + one)
    areas = (boxes[:, 3] - boxes[:, 1] + one) * (boxes[:, 2] - boxes[:, 0] + one)
    overlaps: Floats = shared / (area + areas - shared)
    return overlaps


def _numpy_soft_loop(profile: Profile, boxes: Floats, scores: Floats) -> Picks:
    rows, left, indices = boxes.copy(), scores.copy(), np.arange(len(scores))
    picks: Picks = []
    while len(left):
        best = int(np.argmax(left))
        for column in (rows, left, indices):
            column[[0, best]] = column[[best, 0]]
        picks.append((int(indices[0]), left[0]))
        overlaps = _numpy_overlaps(rows[0], rows[1:])
        if profile["method"] == "linear":
            above = overlaps > np.float32(profile["iou_threshold"])
            weights = np.where(above, np.float32(1) - overlaps, np.float32(1))
        else:
            weights = np.exp(-(overlaps * overlaps) / np.float32(profile["sigma"]))
        decayed = left[1:] * weights
        stay = decayed >= np.float32(profile["score_threshold"])
        rows, left, indices = rows[1:][stay], decayed[stay], indices[1:][stay]
    return picks


def _numpy_hard_loop(profile: Profile, boxes: Floats, scores: Floats) -> Picks:
    order = scores.argsort()[::-1]  # the official call: it decides which of two equal scores comes first
    picks: Picks = []
    while len(order):
        best, rest = order[0], order[1:]
        picks.append((int(best), scores[best]))
        overlaps = _numpy_overlaps(boxes[best], boxes[rest])
        if profile["method"] == "diou":
            overlaps = overlaps - _relative_distances(boxes[best], boxes[rest])
        order = rest[overlaps <= np.float32(profile["iou_threshold"])]
    return picks


def _relative_distances(box: Floats, boxes: Floats) -> Floats:
    height = np.maximum(box[2], boxes[:, 2]) - np.minimum(box[0], boxes[:, 0])
    width = np.maximum(box[3], boxes[:, 3]) - np.minimum(box[1], boxes[:, 1])
    down = (box[0] + box[2]) / 2 - (boxes[:, 0] + boxes[:, 2]) / 2
    right = (box[1] + box[3]) / 2 - (boxes[:, 1] + boxes[:, 3]) / 2
    distances: Floats = (right**2 + down**2) / (width**2 + height**2 + np.float32(1e-10))
    return distances


def _graph_overlaps(box: Floats, boxes: Floats) -> Floats:
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    lows, highs = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    area, areas = np.prod(high - low), np.prod(highs - lows, axis=1)
    sides = np.maximum(np.minimum(high, highs) - np.maximum(low, lows), 0)
    shared = sides[:, 0] * sides[:, 1]
    overlaps = shared / (area + areas - shared)
    return np.where((area <= 0) | (areas <= 0), np.float32(0), overlaps)


def _graph_loop(profile: Profile, boxes: Floats, scores: Floats) -> Picks:
    """A queue of (score, box, number of picks it was compared with); decay is caught up at the top of it."""
    floor = np.float32(-np.inf if profile["score_threshold"] is None else profile["score_threshold"])
    limit = np.float32(profile["iou_threshold"])
    soft = profile["method"] == "gaussian"
    scale = np.float32(-0.5) / np.float32(profile["sigma"] / 2) if soft else np.float32(0)
    queue = [(-score, index, 0) for index, score in enumerate(scores) if score > floor]
    heapq.heapify(queue)
    picks: Picks = []
    while queue and len(picks) < profile["max_output_size"]:
        negative, index, seen = heapq.heappop(queue)
        score = original = -negative
        dropped = False
        earlier = [picked for picked, _ in reversed(picks[seen:])]
        for overlap in _graph_overlaps(boxes[index], boxes[earlier]) if earlier else ():
            weight = np.exp(np.float64(scale * overlap * overlap)).astype(np.float32)
            cut = not soft or profile["soft_cut"]
            score = score * (weight if not cut or overlap <= limit else np.float32(0))
            if not soft and overlap > limit:
                dropped = True
                break
            if score <= floor:
                break
        if not dropped and score == original:
            picks.append((index, score))
        elif not dropped and score > floor:
            heapq.heappush(queue, (-score, index, len(picks)))
    return picks
