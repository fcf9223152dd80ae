"""Four pictures in one, as google/automl's aug/mosaic.py (6a54c87) lays them out; its trainer does not use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from training.augmentation.scene import Scene

_LEAST = 0.25
"""Share of a side that each picture has at least."""


def mosaic(scenes: Sequence[Scene], size: tuple[int, int], random: np.random.Generator) -> Scene:
    """A picture of `size` (height, width) out of four, which meet at a place of chance and lose their aspect.

    Args:
        scenes: upper left, upper right, lower left, lower right.
    """
    middle = [int(random.integers(int(side * _LEAST), max(1, int(side * (1 - _LEAST))))) for side in size]
    y, x = (min(max(place, 1), side - 1) for place, side in zip(middle, size, strict=True))
    pixels = np.empty((*size, 3), np.uint8)
    boxes, classes = [], []
    rows, columns = ((0, y), (y, size[0])), ((0, x), (x, size[1]))
    places = [(row, column) for row in rows for column in columns]
    for scene, ((top, bottom), (left, right)) in zip(scenes, places, strict=True):
        part = Image.fromarray(np.ascontiguousarray(scene.pixels))
        scaled = part.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        pixels[top:bottom, left:right] = np.asarray(scaled)
        scale = np.array([(bottom - top) / part.height, (right - left) / part.width] * 2, np.float32)
        boxes.append(scene.boxes * scale + np.array([top, left, top, left], np.float32))
        classes.append(scene.classes)
    return Scene(pixels, np.concatenate(boxes).astype(np.float32), np.concatenate(classes))
