"""google/automl's loss in TensorFlow (`det_model_fn.py`, `tf2/train_lib.py`, `iou_utils.py`, 6a54c87).

Written from the description, in the network's own precision: the official ops for it force float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verify.reference.trainer.facts import DECAYED
from verify.reference.trainer.labels import Labels

Tensor = Any


def loss_terms(
    tf: Any, settings: Mapping[str, Any], class_outputs: Sequence[Tensor], box_outputs: Sequence[Tensor],
    labels: Labels, anchors: np.ndarray, num_classes: int, normalizer: Tensor, kernels: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Every term, scalars: "loss" is what is made small; "detection_loss" is it without the weight decay.

    Args:
        class_outputs, box_outputs: per level [N, h, w, A * classes] and [N, h, w, A * 4].
        normalizer: positives + 1, or their average.
        kernels: what has weight decay.
    """
    dtype = class_outputs[0].dtype
    batch = class_outputs[0].shape[0]
    normalizer = tf.cast(normalizer, dtype)
    codes = tf.cast(labels.boxes, dtype)
    logits = tf.concat([tf.reshape(level, [batch, -1, num_classes]) for level in class_outputs], 1)
    outputs = tf.concat([tf.reshape(level, [batch, -1, 4]) for level in box_outputs], 1)
    counts = tf.cast(labels.classes != -2, dtype)
    focal = focal_losses(tf, settings, logits, tf.one_hot(labels.classes, num_classes, dtype=dtype))
    terms = {"class_loss": tf.reduce_sum(focal * counts[..., None]) / normalizer, "box_loss": tf.zeros([], dtype)}
    if settings["box_loss_weight"]:
        errors = huber_losses(tf, outputs - codes, settings["delta"])
        terms["box_loss"] = tf.reduce_sum(errors * tf.cast(codes != 0.0, dtype)) / (normalizer * 4.0)
    total = terms["class_loss"] + settings["box_loss_weight"] * terms["box_loss"]
    if settings["iou_loss_type"]:
        losses = iou_losses(tf, settings["iou_loss_type"], outputs, codes, tf.constant(anchors, dtype))
        terms["box_iou_loss"] = tf.reduce_sum(losses) / (normalizer * 4.0)
        total += settings["iou_loss_weight"] * terms["box_iou_loss"]
    terms["detection_loss"] = total
    if kernels and settings["weight_decay"]:
        terms["reg_l2_loss"] = settings["weight_decay"] * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
        total += terms["reg_l2_loss"]
    return {"loss": total, **terms}


def has_decay(name: str) -> bool:
    """Whether the squares of a variable of this canonical name are in the loss."""
    return re.match(DECAYED, f"{name}:0") is not None


def focal_losses(tf: Any, settings: Mapping[str, Any], logits: Tensor, wanted: Tensor) -> Tensor:
    """Of each logit; `wanted` is 1 for the true class."""
    alpha, smoothing = settings["alpha"], settings["label_smoothing"]
    probability = tf.sigmoid(logits)
    of_truth = wanted * probability + (1.0 - wanted) * (1.0 - probability)
    factor = (wanted * alpha + (1.0 - wanted) * (1.0 - alpha)) * (1.0 - of_truth) ** settings["gamma"]
    smooth = wanted * (1.0 - smoothing) + 0.5 * smoothing if smoothing else wanted
    return factor * tf.nn.sigmoid_cross_entropy_with_logits(labels=smooth, logits=logits)


def huber_losses(tf: Any, errors: Tensor, delta: float) -> Tensor:
    """Quadratic up to `delta`, then linear."""
    sizes = tf.abs(errors)
    quadratic = tf.minimum(sizes, tf.constant(delta, sizes.dtype))
    return 0.5 * quadratic * quadratic + delta * (sizes - quadratic)


def iou_losses(tf: Any, kind: str, outputs: Tensor, codes: Tensor, anchors: Tensor) -> Tensor:
    """1 - IoU or its kin of each anchor's decoded output and target [N, anchors]; 0 where no box.

    The official code lays anchors out image by image beside outputs level by level, so that with several images a pair
    may be decoded with an anchor of another size; no IoU sees that, but for rounding. Its aspect term has no gradient
    to the prediction (`_get_v` differentiates its target's sides alone), nor has its weight in a graph.
    """
    mask = tf.cast(codes != 0.0, outputs.dtype)
    found, truth = _decoded(tf, outputs, anchors) * mask, _decoded(tf, codes, anchors) * mask
    valid = tf.cast((truth[..., 2] > truth[..., 0]) & (truth[..., 3] > truth[..., 1]), outputs.dtype)
    found, truth = found * valid[..., None], truth * valid[..., None]
    return valid * (1.0 - _alike(tf, kind, tf.unstack(found, axis=-1), tf.unstack(truth, axis=-1)))


def _decoded(tf: Any, codes: Tensor, anchors: Tensor) -> Tensor:
    sides = anchors[:, 2:] - anchors[:, :2]
    middle = codes[..., :2] * sides + (anchors[:, :2] + anchors[:, 2:]) / 2.0
    half = tf.exp(codes[..., 2:]) * sides / 2.0
    return tf.concat([middle - half, middle + half], -1)


def _alike(tf: Any, kind: str, found: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    zero = tf.zeros([], found[0].dtype)
    ratio = tf.math.divide_no_nan

    def sides(ymin: Tensor, xmin: Tensor, ymax: Tensor, xmax: Tensor) -> tuple[Tensor, Tensor]:
        return tf.maximum(zero, ymax - ymin), tf.maximum(zero, xmax - xmin)

    (high, wide), (high_t, wide_t) = sides(*found), sides(*truth)
    low_shared = [tf.maximum(found[place], truth[place]) for place in (0, 1)]
    top_shared = [tf.minimum(found[place], truth[place]) for place in (2, 3)]
    shared_high, shared_wide = sides(*low_shared, *top_shared)
    shared = shared_high * shared_wide
    union = high * wide + high_t * wide_t - shared
    iou = ratio(shared, union)
    if kind == "iou":
        return iou
    low = [tf.minimum(found[place], truth[place]) for place in (0, 1)]
    top = [tf.maximum(found[place], truth[place]) for place in (2, 3)]
    if kind == "giou":
        around_high, around_wide = sides(*low, *top)
        around = around_high * around_wide
        return iou - ratio(around - union, around)
    apart = [(truth[a] + truth[b] - found[a] - found[b]) / 2.0 for a, b in ((0, 2), (1, 3))]
    diagonal = [high_side - low_side for high_side, low_side in zip(top, low, strict=True)]
    diou = iou - ratio(apart[0] ** 2 + apart[1] ** 2, diagonal[0] ** 2 + diagonal[1] ** 2)
    if kind == "diou":
        return diou
    turn = tf.atan(ratio(wide, high)) - tf.atan(ratio(wide_t, high_t))
    aspect = tf.stop_gradient(4.0 * (turn / math.pi) ** 2)
    weight = ratio(aspect, 1.0 - iou + aspect)
    return diou - weight * aspect
