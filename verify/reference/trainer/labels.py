"""Which anchor is to find which box, in TensorFlow: the training targets of google/automl.

Written from its description (`tf2/anchors.py`, `object_detection/argmax_matcher.py`, `faster_rcnn_box_coder.py`,
6a54c87). Everything is float32 whatever the network computes in, as targets are made by the input pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from verify.reference.trainer.facts import MATCH_THRESHOLD, SMALLEST_SIDE

Tensor = Any


class Labels(NamedTuple):
    """Of a batch of N images.

    Attributes:
        classes: int32 [N, anchors]: class index from 0; -1: background; -2: does not count.
        boxes: float32 [N, anchors, 4]: (ty, tx, th, tw), zeros where no box.
        positives: float32 [N].
    """

    classes: Tensor
    boxes: Tensor
    positives: Tensor


def label_batch(anchors: np.ndarray, boxes: Sequence[np.ndarray], classes: Sequence[np.ndarray]) -> Labels:
    """Targets of a batch.

    Args:
        anchors: float32 [anchors, 4], y0, x0, y1, x1.
        boxes: per image float32 [n, 4], y0, x0, y1, x1 in input pixels; n may be 0.
        classes: per image int [n], from 1 on.
    """
    import tensorflow as tf

    each = [_label(tf, anchors, *one) for one in zip(boxes, classes, strict=True)]
    return Labels(*(tf.stack(parts) for parts in zip(*each, strict=True)))


def _label(tf: Any, anchors: np.ndarray, boxes: np.ndarray, classes: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    count = len(anchors)
    if not len(boxes):
        return tf.fill([count], -1), tf.zeros([count, 4]), tf.constant(0.0)
    truths = tf.constant(np.asarray(boxes, np.float32).reshape(-1, 4))
    rows = _matched(tf, _overlaps(tf, truths, tf.constant(anchors)))
    found = rows >= 0
    own = tf.gather(truths, tf.maximum(rows, 0))
    codes = tf.where(found[:, None], _encoded(tf, own, tf.constant(anchors)), 0.0)
    labels = tf.gather(tf.constant(np.asarray(classes), tf.int32), tf.maximum(rows, 0))
    return tf.where(found, labels, 0) - 1, codes, tf.reduce_sum(tf.cast(found, tf.float32))


def _overlaps(tf: Any, truths: Tensor, anchors: Tensor) -> Tensor:
    """Intersection over union [boxes, anchors]."""
    ymin, xmin, ymax, xmax = (truths[:, place, None] for place in range(4))
    ymin_a, xmin_a, ymax_a, xmax_a = (anchors[None, :, place] for place in range(4))
    height = tf.maximum(0.0, tf.minimum(ymax, ymax_a) - tf.maximum(ymin, ymin_a))
    width = tf.maximum(0.0, tf.minimum(xmax, xmax_a) - tf.maximum(xmin, xmin_a))
    shared = height * width
    together = (ymax - ymin) * (xmax - xmin) + (ymax_a - ymin_a) * (xmax_a - xmin_a) - shared
    return tf.where(shared == 0.0, tf.zeros_like(shared), tf.truediv(shared, together))


def _matched(tf: Any, overlaps: Tensor) -> Tensor:
    """Row of each anchor's box, -1 for none; each box has its best anchor, the first box where several want it."""
    best = tf.where(
        tf.reduce_max(overlaps, 0) >= MATCH_THRESHOLD, tf.argmax(overlaps, 0, output_type=tf.int32), -1
    )
    wanted = tf.one_hot(tf.argmax(overlaps, 1), overlaps.shape[1])
    return tf.where(tf.reduce_max(wanted, 0) > 0.0, tf.argmax(wanted, 0, output_type=tf.int32), best)


def _encoded(tf: Any, boxes: Tensor, anchors: Tensor) -> Tensor:
    def middle_and_size(corners: Tensor) -> tuple[Tensor, Tensor]:
        size = corners[:, 2:] - corners[:, :2]
        return corners[:, :2] + size / 2.0, tf.maximum(SMALLEST_SIDE, size)

    middle, size = middle_and_size(boxes)
    middle_a, size_a = middle_and_size(anchors)
    return tf.concat([(middle - middle_a) / size_a, tf.math.log(size / size_a)], 1)
