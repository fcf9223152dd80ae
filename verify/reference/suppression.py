"""Suppression on the reference side of the parity ladder: TensorFlow's ops, and plain numpy loops class by class.

Written from google/automl's description (`nms_np.py`, `tf2/postprocess.py`, 6a54c87); it shares no code with
`effdet_model`. A profile is given as plain values, with the field names of `effdet_model.nms_profiles.NmsProfile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Profile = Mapping[str, Any]


def suppress(
    profile: Profile, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, size: tuple[int, ...], count: int
) -> np.ndarray:
    """Detections float32 [n, 6]: y0, x0, y1, x1 in input pixels, score, category id (class index + 1).

    Args:
        boxes: [K, 4] yxyx in input pixels. scores, classes: [K], in ascending order of (anchor, class).
        size: (height, width) of the model's input. count: number of classes.

    Raises:
        ValueError: TensorFlow has no such suppression.
    """
    if profile["max_candidates"] is None:
        found = _combined(profile, boxes, scores, count)
    elif profile["family"] == "numpy":
        found = _numpy_by_class(profile, boxes, scores, classes, count)
    elif profile["family"] == "graph":
        found = _graph_by_class(profile, boxes, scores, classes, count)
    else:
        raise ValueError(f"no suppression {profile['name']!r} in TensorFlow")
    if profile["clip"]:
        found[:, :4] = np.clip(found[:, :4], 0, np.array([*size, *size], np.float32))
    return found


def _numpy_by_class(
    profile: Profile, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, count: int
) -> np.ndarray:
    kept = []
    for class_index in range(count):
        mine = np.nonzero(classes == class_index)[0]
        if not len(mine):
            continue
        table = np.column_stack((boxes[mine], scores[mine])).astype(np.float32)
        rows = _decaying(profile, table) if profile["method"] in ("gaussian", "linear") else _cutting(profile, table)
        kept.append(np.column_stack((rows, np.full(len(rows), class_index + 1, np.float32))))
    if not kept:
        return np.zeros((0, 6), np.float32)
    everything = np.concatenate(kept)
    order = np.argsort(-everything[:, 4].astype(np.float64))
    return everything[order[: profile["max_output_size"]]].astype(np.float32)


def _overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a row with rows, where a box has one pixel more on each axis than the difference of its ends."""
    size = (one[2:4] - one[0:2]) + 1
    sizes = (others[:, 2:4] - others[:, 0:2]) + 1
    shared = np.minimum(one[2:4], others[:, 2:4]) - np.maximum(one[0:2], others[:, 0:2]) + 1
    shared = np.maximum(shared, 0.0)
    common = shared[:, 1] * shared[:, 0]
    return common / (size[1] * size[0] + sizes[:, 1] * sizes[:, 0] - common)


def _cutting(profile: Profile, table: np.ndarray) -> np.ndarray:
    """Hard NMS, or the one that also counts the distance of centres (DIoU)."""
    waiting = table[:, 4].argsort()[::-1]
    kept = []
    while len(waiting):
        first, rest = table[waiting[0]], table[waiting[1:]]
        kept.append(waiting[0])
        overlap = _overlap(first, rest)
        if profile["method"] == "diou":
            outer = np.maximum(first[2:4], rest[:, 2:4]) - np.minimum(first[0:2], rest[:, 0:2])
            apart = (first[0:2] + first[2:4]) / 2 - (rest[:, 0:2] + rest[:, 2:4]) / 2
            distance = apart[:, 1] ** 2 + apart[:, 0] ** 2
            overlap = overlap - distance / (outer[:, 1] ** 2 + outer[:, 0] ** 2 + 1e-10)
        waiting = waiting[1:][overlap <= profile["iou_threshold"]]
    return table[kept]


def _decaying(profile: Profile, table: np.ndarray) -> np.ndarray:
    """Soft-NMS: the best row is taken out, its place filled by the first one, the others' scores decay."""
    kept = []
    while len(table):
        best = int(table[:, 4].argmax())
        row = table[best].copy()
        kept.append(row)
        rest = table.copy()
        rest[best] = table[0]
        rest = rest[1:]
        overlap = _overlap(row, rest)
        if profile["method"] == "gaussian":
            decay = np.exp(-(overlap * overlap) / profile["sigma"])
        else:
            decay = np.where(overlap > profile["iou_threshold"], 1 - overlap, np.float32(1))
        rest[:, 4] *= decay
        table = rest[rest[:, 4] >= profile["score_threshold"]]
    return np.stack(kept)


def _graph_by_class(
    profile: Profile, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, count: int
) -> np.ndarray:
    """TensorFlow's op for every class (or once for all), then the best of all of them."""
    import tensorflow as tf

    limit = profile["max_output_size"]
    groups = [classes == index for index in range(count)] if profile["per_class"] else [np.ones(len(classes), bool)]
    kept = []
    for group in groups:
        mine = np.nonzero(group)[0]
        if not len(mine):
            continue
        pick, decayed = _graph_op(profile, boxes[mine], scores[mine])
        chosen = mine[pick]
        kept.append(np.column_stack((boxes[chosen], decayed, classes[chosen] + 1)).astype(np.float32))
    if not kept:
        return np.zeros((0, 6), np.float32)
    everything = np.concatenate(kept)
    best = tf.math.top_k(everything[:, 4], k=min(limit, len(everything)), sorted=True).indices.numpy()
    return everything[best]


def _graph_op(profile: Profile, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions, scores). TensorFlow's sigma is half of the one in the soft-NMS paper."""
    import tensorflow as tf

    threshold = profile["score_threshold"]
    if profile["soft_cut"]:
        return _decaying_with_cut(profile, boxes, scores)
    picked, decayed, valid = tf.raw_ops.NonMaxSuppressionV5(
        boxes=boxes,
        scores=scores,
        max_output_size=profile["max_output_size"],
        iou_threshold=profile["iou_threshold"],
        score_threshold=float("-inf") if threshold is None else threshold,
        soft_nms_sigma=profile["sigma"] / 2 if profile["method"] == "gaussian" else 0.0,
        pad_to_max_output_size=False,
    )
    return picked.numpy()[: int(valid)], decayed.numpy()[: int(valid)]


def _decaying_with_cut(profile: Profile, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The op as versions of TensorFlow had it whose soft mode also drops what overlaps by more than the threshold."""
    left = scores.astype(np.float32).copy()
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    area = np.prod(high - low, axis=1)
    threshold = np.float32(-np.inf if profile["score_threshold"] is None else profile["score_threshold"])
    picked: list[int] = []
    decayed: list[float] = []
    while len(picked) < profile["max_output_size"] and len(left) and left.max() > threshold:
        best = int(left.argmax())
        picked.append(best)
        decayed.append(left[best])
        shared = np.prod(np.maximum(np.minimum(high[best], high) - np.maximum(low[best], low), 0), axis=1)
        union = area[best] + area - shared
        overlap = np.where((area > 0) & (area[best] > 0), shared / np.where(union > 0, union, 1), 0)
        weight = np.exp(-overlap * overlap / profile["sigma"]).astype(np.float32)
        left = np.where(overlap <= profile["iou_threshold"], left * weight, -np.inf).astype(np.float32)
        left[best] = -np.inf
    return np.array(picked, np.int64), np.array(decayed, np.float32)


def _combined(profile: Profile, boxes: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """TensorFlow's combined op on all anchors x classes."""
    import tensorflow as tf

    limit = profile["max_output_size"]
    threshold = profile["score_threshold"]
    found = tf.image.combined_non_max_suppression(
        boxes.reshape(-1, count, 4)[None, :, :1],
        scores.reshape(1, -1, count),
        limit,
        limit,
        iou_threshold=profile["iou_threshold"],
        score_threshold=float("-inf") if threshold is None else threshold,
        clip_boxes=False,
    )
    valid = int(found.valid_detections[0])
    rows = (found.nmsed_boxes[0], found.nmsed_scores[0], found.nmsed_classes[0] + 1)
    return np.column_stack([row.numpy()[:valid] for row in rows]).astype(np.float32)
