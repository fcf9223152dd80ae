"""Suppression on the reference side of the parity ladder: TensorFlow's ops, and google/automl's loops in numpy.

Written from google/automl's description (`nms_np.py`, `tf2/postprocess.py`, 6a54c87); it shares no code with
`effdet_model`. A profile is given as plain values, with the field names of `effdet_model.nms_profiles.NmsProfile`.
"""

from __future__ import annotations

import numpy as np

from verify.reference.nms_loops import Profile, picks_by_class


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
        found = _numpy_by_class(profile, boxes, scores, classes)
    elif profile["family"] == "graph":
        found = _graph_by_class(profile, boxes, scores, classes, count)
    else:
        raise ValueError(f"no suppression {profile['name']!r} in TensorFlow")
    if profile["clip"]:
        found[:, :4] = np.clip(found[:, :4], 0, np.array([*size, *size], np.float32))
    return found


def _numpy_by_class(profile: Profile, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    picked, final = picks_by_class(profile, boxes.astype(np.float32), scores.astype(np.float32), classes)
    everything = np.column_stack((boxes[picked], final, classes[picked] + 1)).astype(np.float32)
    order = np.argsort(-everything[:, 4].astype(np.float64))
    return everything[order[: profile["max_output_size"]]]


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
        pick, decayed = graph_op(profile, boxes[mine], scores[mine])
        chosen = mine[pick]
        kept.append(np.column_stack((boxes[chosen], decayed, classes[chosen] + 1)).astype(np.float32))
    if not kept:
        return np.zeros((0, 6), np.float32)
    everything = np.concatenate(kept)
    best = tf.math.top_k(everything[:, 4], k=min(limit, len(everything)), sorted=True).indices.numpy()
    return everything[best]


def graph_op(profile: Profile, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions, scores) that TensorFlow's op gives for one class, or for all at once.

    Its sigma is half of the one in the soft-NMS paper. The op of versions whose soft mode also drops what overlaps by
    more than the threshold (`soft_cut`) is not in this TensorFlow; loops stand for it.
    """
    import tensorflow as tf

    threshold = profile["score_threshold"]
    if profile["soft_cut"]:
        return picks_by_class(profile, boxes, scores, np.zeros(len(scores), np.int64))
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
