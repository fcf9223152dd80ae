"""Flip, random scale and crop of google/automl's dataloader.py (6a54c87), equal to it bit by bit on a CPU.

Random numbers come from outside: with those that TensorFlow drew the result is TensorFlow's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.preprocessing import normalize_and_resize, scaled_size
from training.augmentation.scene import Boxes, Prepared, Scene

F = np.float32


class Placement(NamedTuple):
    """Where a scaled picture lies against the input.

    Attributes:
        scaled: (height, width) of the whole scaled picture.
        offset: (y, x) of the input's corner in it.
    """

    scaled: tuple[int, int]
    offset: tuple[int, int]


def random_placement(
    size: tuple[int, int], image_size: tuple[int, int], factor: float, shift_y: float, shift_x: float
) -> Placement:
    """The placement for three random numbers; all arithmetic is float32, and sizes are truncated twice.

    Args:
        size: (height, width) of the picture. image_size: of the input.
        factor: the scale, from jitter_min to jitter_max. shift_y, shift_x: from 0 to below 1.
    """
    height, width = F(size[0]), F(size[1])
    wanted = [F(int(F(factor) * F(side))) for side in image_size]
    scale = min(wanted[1] / width, wanted[0] / height)
    scaled = max(1, int(height * scale)), max(1, int(width * scale))
    beyond = [max(F(0), F(scaled[axis] - image_size[axis])) for axis in (0, 1)]
    return Placement(scaled, (int(beyond[0] * F(shift_y)), int(beyond[1] * F(shift_x))))


def plain_placement(size: tuple[int, int], image_size: tuple[int, int]) -> Placement:
    """The placement of evaluation: as large as fits, in the upper left corner.

    Raises:
        InputError: a side of the picture would vanish.
    """
    return Placement(scaled_size(size, image_size)[0], (0, 0))


def fractions(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Pixels of the picture as fractions of its sides, which is how google/automl stores boxes."""
    sides = np.array([size[0], size[1], size[0], size[1]], np.float64)
    return (boxes.astype(np.float64) / sides).astype(F)


def flipped_fractions(boxes: Boxes) -> Boxes:
    """Boxes as fractions, mirrored left to right."""
    return np.stack([boxes[:, 0], F(1) - boxes[:, 3], boxes[:, 2], F(1) - boxes[:, 1]], axis=1)


def place(
    scene: Scene, config: EfficientDetConfig, flip: bool, placement: Placement, fill: Any = None
) -> Prepared:
    """The model's input for a flip and a placement.

    Args:
        fill: float32 [3, 1, 1], the normalised colour of what the picture does not cover; None: 0, the mean colour.
    """
    pixels = scene.pixels[:, ::-1] if flip else scene.pixels
    boxes = fractions(scene.boxes, pixels.shape[:2])
    boxes = flipped_fractions(boxes) if flip else boxes
    height, width = config.image_size
    (rows, columns), (top, left) = placement
    part = normalize_and_resize(
        pixels, config.mean_rgb, config.stddev_rgb, (rows, columns), slice(top, top + height), slice(left, left + width)
    )
    content = part.shape[1], part.shape[2]
    image = np.zeros((3, height, width), F)
    if fill is not None:
        image += fill
    image[:, : content[0], : content[1]] = part
    if config.scale_range:
        image = image * F(2.0) / F(255) - F(1.0)
    boxes = boxes * np.array([rows, columns, rows, columns], F) - np.array([top, left, top, left], F)
    boxes = np.clip(boxes, F(0), np.array([height - 1, width - 1, height - 1, width - 1], F))
    kept = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) != 0
    return Prepared(image, boxes[kept], scene.classes[kept], content)
