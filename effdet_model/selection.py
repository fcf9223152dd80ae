"""From the model's outputs to candidates for suppression: score selection and box decoding.

Arrays of the CPU are computed by numpy, one thread and no copies: at these sizes torch's thread pool costs more
than it gives, most of all when data loaders keep the cores busy. Other devices run the same lines in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdet_model.errors import InputError

Array = Any  # a numpy array or a torch tensor


@dataclass(frozen=True)
class Candidates:
    """What is left of one image before suppression, in ascending order of (anchor, class).

    boxes_yxyx: float32 [K, 4], (y0, x0, y1, x1) in pixels of the model input, neither clipped nor scaled.
    scores: float32 [K], sigmoid of the logits. classes: int64 [K], class index (COCO id - 1).
    anchors: int64 [K], the index of the anchor that each candidate comes from.
    """

    boxes_yxyx: Tensor
    scores: Tensor
    classes: Tensor
    anchors: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def decode_boxes(regressions: Array, anchors_yxyx: Array) -> Array:
    """Boxes (y0, x0, y1, x1) [..., 4] of the regressions (ty, tx, th, tw) [..., 4] against their anchors.

    Centres move by (ty, tx) times the anchor's size, sizes grow by exp(th), exp(tw); the order of the
    float32 operations is the one of google/automl tf2/anchors.py decode_box_outputs. Arrays or tensors.
    """
    xp = _library(regressions)
    y0, x0, y1, x1 = (anchors_yxyx[..., i] for i in range(4))
    ty, tx, th, tw = (regressions[..., i] for i in range(4))
    anchor_height, anchor_width = y1 - y0, x1 - x0
    with np.errstate(over="ignore"):  # boxes beyond float32 are infinite, as in TensorFlow
        half_height = _exp(th) * anchor_height / 2.0
        half_width = _exp(tw) * anchor_width / 2.0
    center_y = ty * anchor_height + (y0 + y1) / 2
    center_x = tx * anchor_width + (x0 + x1) / 2
    return xp.stack((center_y - half_height, center_x - half_width, center_y + half_height, center_x + half_width), -1)


def select(
    class_outputs: Sequence[Tensor],
    box_outputs: Sequence[Tensor],
    anchors_yxyx: Tensor,
    num_classes: int,
    max_candidates: int = 5000,
) -> list[Candidates]:
    """Candidates of every image of a batch, from the model's outputs.

    class_outputs: one tensor per level, logits [N, A * num_classes, h, w], any memory format;
    box_outputs: one per level, regressions [N, A * 4, h, w], (ty, tx, th, tw); anchors_yxyx: float32
    [anchors, 4] of all levels, as `generate_anchors` gives them, on the same device.
    max_candidates > 0: the best scores of all anchors x classes (google/automl evaluates with 5000); equal
    logits: the lower (anchor, class) first, as TensorFlow's top_k. 0: every anchor with its best class
    (the first of equals).

    Raises InputError for outputs that don't fit the anchors and for logits that are not numbers.
    """
    class_levels = [_Level(level, num_classes) for level in class_outputs]
    box_levels = [_Level(level, 4) for level in box_outputs]
    _check_levels(class_levels, box_levels, len(anchors_yxyx))
    anchors_of_all = _native(anchors_yxyx)
    xp = _library(anchors_of_all)
    candidates = []
    for image in range(len(class_outputs[0])):
        best = xp.concatenate([level.best(image) for level in class_levels])
        if bool(xp.isnan(best.sum())) and bool(xp.isnan(best).any()):
            raise InputError(
                "class outputs: expected numbers, found NaN; check the weights and the precision of the model."
            )
        if max_candidates > 0:
            anchors, classes, logits = _best_pairs(class_levels, image, best, max_candidates)
        else:
            anchors, classes, logits = _best_classes(class_levels, image, best)
        boxes = decode_boxes(_gather(box_levels, image, anchors), anchors_of_all[anchors])
        columns = (boxes, _sigmoid(logits), classes, anchors)
        candidates.append(Candidates(*(torch.as_tensor(column) for column in columns)))
    return candidates


class _Level:
    """One level's outputs [N, A * values, h, w]; anchors count row, column, shape, as in the list of anchors."""

    def __init__(self, outputs: Tensor, values: int) -> None:
        batch, channels, height, width = outputs.shape
        self.shape = (batch, height * width, channels // values)
        self.values = values
        self.channels_last = not outputs.is_contiguous()
        if self.channels_last:
            split = outputs.permute(0, 2, 3, 1).reshape(*self.shape, values)
        else:
            split = outputs.view(batch, channels // values, values, height * width)
        self.split = _native(split.float())

    @property
    def count(self) -> int:
        """How many anchors the level has."""
        return self.shape[1] * self.shape[2]

    def best(self, image: int) -> Array:
        """[count]: the highest value of every anchor (reduced in memory order, which is 17 times faster)."""
        xp = _library(self.split)
        if self.channels_last:
            return xp.amax(self.split[image], -1).reshape(-1)
        return xp.swapaxes(xp.amax(self.split[image], 1), 0, 1).reshape(-1)

    def best_class(self, image: int) -> Array:
        """[count]: the index of the highest value of every anchor, the first of equals."""
        xp = _library(self.split)
        if self.channels_last:
            return xp.argmax(self.split[image], -1).reshape(-1)
        return xp.swapaxes(xp.argmax(self.split[image], 1), 0, 1).reshape(-1)

    def rows(self, image: int, anchors: Array) -> Array:
        """[len(anchors), values] of the given anchors of the level."""
        cell, shape = anchors // self.shape[2], anchors % self.shape[2]
        if self.channels_last:
            return self.split[image][cell, shape]
        return self.split[image][shape, :, cell]


def _check_levels(classes: list[_Level], boxes: list[_Level], anchors: int) -> None:
    of_classes, of_boxes = [level.shape for level in classes], [level.shape for level in boxes]
    if of_classes != of_boxes or sum(level.count for level in classes) != anchors:
        raise InputError(
            f"model outputs: expected {anchors} anchors over all levels, found (images, cells, anchors per cell) "
            f"{of_classes} for classes and {of_boxes} for boxes; make the anchors with the model's own "
            "configuration and image size."
        )


def _best_classes(levels: list[_Level], image: int, best: Array) -> tuple[Array, Array, Array]:
    xp = _library(best)
    anchors = np.arange(len(best)) if xp is np else torch.arange(len(best), device=best.device)
    return anchors, xp.concatenate([level.best_class(image) for level in levels]), best


def _best_pairs(levels: list[_Level], image: int, best: Array, count: int) -> tuple[Array, Array, Array]:
    """(anchors, classes, logits) of the `count` highest logits, in ascending order of (anchor, class).

    At least `count` pairs reach the best logit of the count-th best anchor, so no anchor whose best class is
    below can have one of them: the large top-k shrinks to one over anchors and one over few pairs.
    """
    xp = _library(best)
    floor = _kth_largest(best, count) if len(best) > count else best.min()
    (anchors,) = xp.where(best >= floor)
    logits = _gather(levels, image, anchors)
    values = logits.reshape(-1)
    (pairs,) = xp.where(values >= floor if len(best) > count else xp.ones_like(values) > 0)
    values = values[pairs]
    if len(values) > count:
        kept = _first_largest(values, count)
        pairs, values = pairs[kept], values[kept]
    rows, classes = pairs // logits.shape[1], pairs % logits.shape[1]
    return anchors[rows], classes, values


def _gather(levels: list[_Level], image: int, anchors: Array) -> Array:
    """Rows [len(anchors), values] of ascending indices into the anchors of all levels."""
    xp = _library(anchors)
    rows, start = [], 0
    for level in levels:
        mine = anchors[(anchors >= start) & (anchors < start + level.count)]
        rows.append(level.rows(image, mine - start))
        start += level.count
    return xp.concatenate(rows)


def _kth_largest(values: Array, count: int) -> Array:
    if isinstance(values, np.ndarray):
        return np.partition(values, len(values) - count)[len(values) - count]
    return torch.topk(values, count).values[-1]


def _first_largest(values: Array, count: int) -> Array:
    """Ascending positions of the `count` largest values; of equal ones at the limit, the first."""
    xp = _library(values)
    limit = _kth_largest(values, count)
    kept = values > limit
    (equal,) = xp.where(values == limit)
    kept[equal[: count - int(kept.sum())]] = True
    return xp.where(kept)[0]


def _exp(values: Array) -> Array:
    """The exponential; on the CPU computed in float64, whose rounding is the closest to TensorFlow's."""
    if isinstance(values, np.ndarray):
        with np.errstate(over="ignore"):
            return np.exp(values.astype(np.float64)).astype(values.dtype)
    return torch.exp(values)


def _sigmoid(logits: Array) -> Array:
    if isinstance(logits, np.ndarray):
        with np.errstate(over="ignore"):
            return (1.0 / (1.0 + np.exp(-logits.astype(np.float64)))).astype(logits.dtype)
    return torch.sigmoid(logits)


def _native(tensor: Tensor) -> Array:
    return tensor.detach().numpy() if tensor.device.type == "cpu" else tensor.detach()


def _library(array: Array) -> Any:
    return np if isinstance(array, np.ndarray) else torch
