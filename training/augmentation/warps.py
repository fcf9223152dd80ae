"""Rotations, shears and shifts of pictures and boxes, as google/automl's aug/autoaugment.py (6a54c87) computes them.

Pictures are sampled without interpolation; boxes are fractions that go through whole pixels, and a box that would lose
its area keeps a strip of 5 per cent: all that is the official code's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from training.augmentation.colors import GREY
from training.augmentation.scene import Boxes, Pixels

F = np.float32
_STRIP = F(0.05)


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Around the middle; positive is counter-clockwise."""
    height, width = pixels.shape[0] - 1, pixels.shape[1] - 1
    angle = F(degrees) * F(math.pi / 180.0)
    cos, sin = np.cos(angle), np.sin(angle)
    x_offset = (F(width) - (cos * F(width) - sin * F(height))) / F(2)
    y_offset = (F(height) - (sin * F(width) + cos * F(height))) / F(2)
    return _sampled(pixels, (cos, -sin, x_offset), (sin, cos, y_offset))


def translate(pixels: Pixels, left: float, up: float) -> Pixels:
    """Moved to the left and up by so many pixels."""
    return _sampled(pixels, (F(1), F(0), F(left)), (F(0), F(1), F(up)))


def shear_x(pixels: Pixels, level: float) -> Pixels:
    """Each row moved to the left by `level` times its number."""
    return _sampled(pixels, (F(1), F(level), F(0)), (F(0), F(1), F(0)))


def shear_y(pixels: Pixels, level: float) -> Pixels:
    """Each column moved up by `level` times its number."""
    return _sampled(pixels, (F(1), F(0), F(0)), (F(level), F(1), F(0)))


def _sampled(pixels: Pixels, to_x: tuple[Any, Any, Any], to_y: tuple[Any, Any, Any]) -> Pixels:
    """Where a pixel of the result comes from: (a x + b y + c) for x and y; grey where that lies outside."""
    height, width = pixels.shape[:2]
    y, x = np.arange(height, dtype=F)[:, None], np.arange(width, dtype=F)[None, :]
    columns = _rounded(to_x[0] * x + to_x[1] * y + to_x[2])
    rows = _rounded(to_y[0] * x + to_y[1] * y + to_y[2])
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    result = pixels[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    result[~inside] = GREY
    return result


def _rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The nearest whole numbers, halves away from 0."""
    return np.trunc(values.astype(np.float64) + np.copysign(0.5, values)).astype(np.int64)


def rotate_boxes(boxes: Boxes, size: tuple[int, int], degrees: float) -> Boxes:
    """Boxes around the rotated corners."""
    height, width = F(size[0]), F(size[1])
    half = F(0.5)
    y0, y1 = (-_whole(height * (boxes[:, axis] - half)) for axis in (0, 2))
    x0, x1 = (_whole(width * (boxes[:, axis] - half)) for axis in (1, 3))
    angle = F(degrees) * F(math.pi / 180.0)
    cos, sin = np.cos(angle), np.sin(angle)
    y, x = np.stack([y0, y0, y1, y1]), np.stack([x0, x1, x0, x1])
    new_y, new_x = _whole(cos * y + sin * x), _whole(-sin * y + cos * x)
    return _checked(
        -(new_y.max(0) / height - half), new_x.min(0) / width + half,
        -(new_y.min(0) / height - half), new_x.max(0) / width + half,
    )  # fmt: skip


def translate_boxes(boxes: Boxes, size: tuple[int, int], left: float, up: float) -> Boxes:
    """Boxes moved to the left and up, cut at the picture's edge."""
    height, width = F(size[0]), F(size[1])
    y0, y1 = (_whole(height * boxes[:, axis]) - F(int(up)) for axis in (0, 2))
    x0, x1 = (_whole(width * boxes[:, axis]) - F(int(left)) for axis in (1, 3))
    if up:
        y0, y1 = np.maximum(F(0), y0), np.minimum(height, y1)
    if left:
        x0, x1 = np.maximum(F(0), x0), np.minimum(width, x1)
    return _checked(y0 / height, x0 / width, y1 / height, x1 / width)


def shear_boxes(boxes: Boxes, size: tuple[int, int], level_x: float, level_y: float) -> Boxes:
    """Boxes around the sheared corners; one of the levels is 0."""
    height, width = F(size[0]), F(size[1])
    y0, y1 = (_whole(height * boxes[:, axis]) for axis in (0, 2))
    x0, x1 = (_whole(width * boxes[:, axis]) for axis in (1, 3))
    y, x = np.stack([y0, y0, y1, y1]), np.stack([x0, x1, x0, x1])
    new_y, new_x = _whole(y - F(level_y) * x), _whole(x - F(level_x) * y)
    return _checked(new_y.min(0) / height, new_x.min(0) / width, new_y.max(0) / height, new_x.max(0) / width)


def _whole(values: Any) -> npt.NDArray[np.float32]:
    return np.trunc(values).astype(F)


def _checked(y0: Any, x0: Any, y1: Any, x1: Any) -> Boxes:
    """Within the picture, and with an area."""
    low, high = F(0), F(1)
    (y0, y1), (x0, x1) = (_with_extent(np.clip(a, low, high), np.clip(b, low, high)) for a, b in ((y0, y1), (x0, x1)))
    return np.stack([y0, x0, y1, x1], axis=1).astype(F)


def _with_extent(first: Any, last: Any) -> tuple[Any, Any]:
    none = last - first == 0
    return np.where(none, np.minimum(first, F(1) - _STRIP), first), np.where(none, np.maximum(last, _STRIP), last)
