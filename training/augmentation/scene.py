"""A picture on its way to the model's input, and what it has become."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]


class Scene(NamedTuple):
    """A picture and its boxes.

    Attributes:
        pixels: uint8 [h, w, 3] in RGB.
        boxes: float32 [n, 4], (y0, x0, y1, x1) in pixels of the picture.
        classes: int64 [n] from 1, or -1 for boxes to be ignored.
    """

    pixels: Pixels
    boxes: Boxes
    classes: Classes


class Prepared(NamedTuple):
    """A model's input.

    Attributes:
        image: float32 [3, H, W], normalised.
        boxes: float32 [n, 4], (y0, x0, y1, x1) in pixels of the input.
        classes: int64 [n] from 1, or -1.
        content: (height, width) of the input that the picture covers, from the upper left corner on.
    """

    image: npt.NDArray[np.float32]
    boxes: Boxes
    classes: Classes
    content: tuple[int, int]
