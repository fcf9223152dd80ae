"""The cases of official_augmentation.npz: what google/automl's own code was given, made anew from numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Geometry(NamedTuple):
    """A picture's size, the input's, and the random numbers that were drawn."""

    size: tuple[int, int]
    image_size: tuple[int, int]
    flip: bool
    factor: float | None
    shift_y: float = 0.0
    shift_x: float = 0.0


GEOMETRY = {
    "evaluation": Geometry((37, 53), (40, 40), False, None),
    "small": Geometry((37, 53), (40, 40), False, 0.31),
    "large": Geometry((37, 53), (40, 40), True, 1.93, 0.37, 0.81),
    "high": Geometry((61, 23), (32, 48), True, 1.27, 0.5, 0.999),
    "wide": Geometry((20, 90), (48, 32), False, 2.0, 0.99, 0.25),
    "one": Geometry((40, 40), (40, 40), True, 1.0),
    "tiny scale": Geometry((53, 37), (40, 64), False, 0.1),
}

OPERATIONS: dict[str, tuple[Any, ...]] = {
    "autocontrast": (),
    "equalize": (),
    **{f"posterize {bits}": (bits,) for bits in (0, 2, 3)},
    **{f"solarize {threshold}": (threshold,) for threshold in (153, 204)},
    **{f"solarize_add {addition}": (addition,) for addition in (22, 66, 110)},
    **{
        f"{name} {factor:g}": (factor,)
        for name in ("color", "contrast", "brightness", "sharpness")
        for factor in (0.1, 0.46, 0.82, 1.54, 1.9)
    },
    "cutout 3": (3,),
    **{f"rotate {degrees:g}": (degrees,) for degrees in (18.0, -30.0, 45.0)},
    **{f"{name} {level:g}": (level,) for name in ("shear_x", "shear_y") for level in (0.24, -0.3, 0.06)},
    **{f"{name} {pixels:g}": (pixels,) for name in ("translate_x", "translate_y") for pixels in (5.0, -3.0, 100.0)},
}
"""Function of aug/autoaugment.py and its numbers; cutout is around `CENTER`."""

CENTER = (2, 7)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """uint8 [h, w, 3]: slopes with some noise and two even patches."""
    random = np.random.RandomState(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([y * 255 // height, x * 200 // width + 30, (x + y) * 250 // (height + width)], -1)
    pixels = np.clip(slopes + random.randint(-20, 21, (height, width, 3)), 0, 255).astype(np.uint8)
    pixels[: height // 4, : width // 4] = 90
    pixels[-height // 4 :, -width // 4 :] = (7, 200, 31)
    return pixels


def boxes(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """float32 [n, 4], (y0, x0, y1, x1) in pixels: some at the edges, one of one pixel."""
    random = np.random.RandomState(seed + 1)
    height, width = size
    corners = np.sort(random.uniform(0, 1, (6, 2, 2)), axis=1).reshape(6, 4)
    edges = np.array([[0, 0, 1, 1], [0, 0.5, 0.2, 1], [0.9, 0, 1, 0.3]])
    all_boxes = np.concatenate([corners, edges]) * [height, width, height, width]
    return np.concatenate([all_boxes, [[5, 5, 6, 6]]]).astype(np.float32)
