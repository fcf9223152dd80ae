"""Flip, random resize and pad of effdet 0.4.1 (data/transforms.py): on 8-bit pixels with Pillow, then normalised.

Random numbers come from outside: with those that effdet drew the result is effdet's, bit by bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from effdet_model.config import EfficientDetConfig
from effdet_model.preprocessing import normalize
from training.augmentation.scene import Pixels, Prepared, Scene

INTERPOLATIONS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
"""effdet chooses one of them for each picture."""


class Resize(NamedTuple):
    """How a picture is scaled and cut.

    Attributes:
        scaled: (height, width) of the whole scaled picture. offset: (y, x) of the input's corner in it.
        scale: what boxes are multiplied by.
    """

    scaled: tuple[int, int]
    offset: tuple[int, int]
    scale: float


def random_resize(
    size: tuple[int, int], image_size: tuple[int, int], factor: float, shift_y: float, shift_x: float
) -> Resize:
    """The resize for three random numbers; all arithmetic is float64.

    Args:
        size: (height, width) of the picture. image_size: of the input.
        factor: the scale, from jitter_min to jitter_max. shift_y, shift_x: from 0 to 1.
    """
    scale = min(factor * image_size[0] / size[0], factor * image_size[1] / size[1])
    scaled = max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
    beyond = [max(0.0, float(scaled[axis] - image_size[axis])) for axis in (0, 1)]
    return Resize(scaled, (int(beyond[0] * shift_y), int(beyond[1] * shift_x)), scale)


def plain_resize(size: tuple[int, int], image_size: tuple[int, int]) -> Resize:
    """As large as fits, in the upper left corner."""
    return random_resize(size, image_size, 1.0, 0.0, 0.0)


def place(
    scene: Scene,
    config: EfficientDetConfig,
    flip: bool,
    resize: Resize,
    interpolation: Image.Resampling = Image.Resampling.BILINEAR,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> Prepared:
    """The model's input for a flip and a resize.

    Args:
        fill: RGB of what the picture does not cover.
    """
    boxes = scene.boxes.copy()
    pixels = scene.pixels
    if flip:
        width = pixels.shape[1]
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        boxes[:, 1], boxes[:, 3] = width - scene.boxes[:, 3], width - scene.boxes[:, 1]
    canvas, content = _canvas(pixels, config.image_size, resize, interpolation, fill)
    boxes *= resize.scale
    boxes -= np.array([*resize.offset, *resize.offset])
    bound = [min(resize.scaled[axis], config.image_size[axis]) for axis in (0, 1)]
    np.clip(boxes, 0, np.array([*bound, *bound], boxes.dtype), out=boxes)
    kept = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    image = normalize(canvas, config.mean_rgb, config.stddev_rgb)
    if config.scale_range:
        image = image * np.float32(2.0) / np.float32(255) - np.float32(1.0)
    return Prepared(image, boxes[kept], scene.classes[kept], content)


def _canvas(
    pixels: Pixels, size: tuple[int, int], resize: Resize, interpolation: Any, fill: tuple[int, int, int]
) -> tuple[Pixels, tuple[int, int]]:
    (height, width), (top, left) = resize.scaled, resize.offset
    scaled = np.asarray(Image.fromarray(pixels).resize((width, height), interpolation))
    part = scaled[top : top + size[0], left : left + size[1]]
    canvas = np.empty((*size, 3), np.uint8)
    canvas[:] = fill
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas, (part.shape[0], part.shape[1])
