"""IoU losses of boxes, as google/automl's trainer computes them in a graph (iou_utils.py, 6a54c87).

Two things are kept because they are what official models were trained with: the aspect term of "ciou" has no
gradient of its own, and where two corners are equal the whole gradient goes to the predicted one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

IOU_LOSS_TYPES = ("iou", "giou", "diou", "ciou")


def iou_loss(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    """1 - IoU (or its kin) of each pair of boxes; 0 where the target has no area.

    Args:
        predicted, target: [n, 4], (y0, x0, y1, x1).
        kind: one of `IOU_LOSS_TYPES`.

    Returns:
        [n].
    """
    counts = ((target[:, 2] > target[:, 0]) & (target[:, 3] > target[:, 1])).to(predicted.dtype)
    return counts * (1 - _similarity(predicted * counts[:, None], target * counts[:, None], kind))


def _similarity(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    size_p, size_t = _sides(predicted[:, :2], predicted[:, 2:]), _sides(target[:, :2], target[:, 2:])
    meeting = _sides(_maximum(predicted[:, :2], target[:, :2]), _minimum(predicted[:, 2:], target[:, 2:]))
    intersection = _area(meeting)
    union = _area(size_p) + _area(size_t) - intersection
    iou = _divide(intersection, union)
    if kind == "iou":
        return iou
    low, high = _minimum(predicted[:, :2], target[:, :2]), _maximum(predicted[:, 2:], target[:, 2:])
    if kind == "giou":
        enclosing = _area(_sides(low, high))
        return iou - _divide(enclosing - union, enclosing)
    apart = (target[:, :2] + target[:, 2:]) / 2 - (predicted[:, :2] + predicted[:, 2:]) / 2
    diou = iou - _divide(apart.square().sum(1), (high - low).square().sum(1))
    if kind == "diou":
        return diou
    with torch.no_grad():
        aspect_p, aspect_t = (torch.atan(_divide(size[:, 1], size[:, 0])) for size in (size_p, size_t))
        aspect = 4 * ((aspect_p - aspect_t) / math.pi).square()
    return diou - _divide(aspect, (1 - iou) + aspect) * aspect


def _sides(low: Tensor, high: Tensor) -> Tensor:
    """(height, width) [n, 2], at least 0; without a gradient where exactly 0."""
    sides = high - low
    return torch.where(sides > 0, sides, torch.zeros_like(sides))


def _area(sides: Tensor) -> Tensor:
    return sides[:, 0] * sides[:, 1]


def _maximum(first: Tensor, second: Tensor) -> Tensor:
    """TensorFlow's: where both are equal the gradient is the first one's alone."""
    return torch.where(first >= second, first, second)


def _minimum(first: Tensor, second: Tensor) -> Tensor:
    return torch.where(first <= second, first, second)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0, and without a gradient, where the denominator is 0."""
    empty = denominator == 0
    safe = torch.where(empty, torch.ones_like(denominator), denominator)
    return torch.where(empty, torch.zeros_like(numerator), numerator / safe)
