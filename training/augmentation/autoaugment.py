"""Autoaugment and randaug of google/automl's aug/autoaugment.py (6a54c87): policies applied to a picture and its boxes.

Boxes are fractions of the picture here, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from training.augmentation import colors, warps
from training.augmentation.policies import POLICIES, RANDAUG
from training.augmentation.scene import Boxes, Pixels

_MOST_LEVEL = 10.0
_TRANSLATION, _BOX_TRANSLATION = 250.0, 120.0
"""Pixels at the highest level."""
_CUTOUT, _BOX_CUTOUT, _CUTOUT_FRACTION = 100, 50, 0.75
_ONLY_BOXES = 3.0
"""Boxes are changed by themselves with the probability divided by this."""

Random = np.random.Generator


def apply_policy(pixels: Pixels, boxes: Boxes, policy: str, random: Random) -> tuple[Pixels, Boxes]:
    """One sub-policy of "v0" to "v3", chosen by chance.

    Args:
        pixels: uint8 [h, w, 3]. boxes: float32 [n, 4], (y0, x0, y1, x1) as fractions.
    """
    steps = POLICIES[policy][int(random.integers(len(POLICIES[policy])))]
    for name, probability, level in steps:
        if name.endswith("_Only_BBoxes"):
            pixels = _each_box(pixels, boxes, name, probability / _ONLY_BOXES, level, random)
        elif random.random() + probability >= 1:
            pixels, boxes = apply_operation(pixels, boxes, name, level, random)
    return pixels, boxes


def apply_randaug(
    pixels: Pixels, boxes: Boxes, num_layers: int, magnitude: float, random: Random
) -> tuple[Pixels, Boxes]:
    """`num_layers` operations, each chosen by chance, all of the same level."""
    for _ in range(num_layers):
        name = RANDAUG[int(random.integers(len(RANDAUG)))]
        pixels, boxes = apply_operation(pixels, boxes, name, magnitude, random)
    return pixels, boxes


def apply_operation(pixels: Pixels, boxes: Boxes, name: str, level: float, random: Random) -> tuple[Pixels, Boxes]:
    """One operation on the whole picture."""
    if name == "BBox_Cutout":
        return _cutout_in_box(pixels, boxes, level / _MOST_LEVEL * _CUTOUT_FRACTION, random), boxes
    kind, _, with_boxes = name.partition("_")
    if not with_boxes:
        return _changed(kind, pixels, level, random, _CUTOUT), boxes
    size = pixels.shape[0], pixels.shape[1]
    amount = _amount(kind, level, random, _TRANSLATION)
    pixels = _warped(kind, pixels, amount)
    if kind == "Rotate":
        return pixels, warps.rotate_boxes(boxes, size, amount)
    if kind.startswith("Translate"):
        return pixels, warps.translate_boxes(boxes, size, *_axes(kind, amount))
    return pixels, warps.shear_boxes(boxes, size, *_axes(kind, amount))


def _changed(kind: str, pixels: Pixels, level: float, random: Random, most_cutout: int) -> Pixels:
    """An operation that moves nothing."""
    part = level / _MOST_LEVEL
    if kind == "Cutout":
        half = int(part * most_cutout)
        y, x = int(random.integers(pixels.shape[0])), int(random.integers(pixels.shape[1]))
        return colors.cutout(pixels, half, half, y, x)
    operations: dict[str, Callable[[], Pixels]] = {
        "AutoContrast": lambda: colors.autocontrast(pixels),
        "Equalize": lambda: colors.equalize(pixels),
        "Posterize": lambda: colors.posterize(pixels, int(part * 4)),
        "Solarize": lambda: colors.solarize(pixels, int(part * 256)),
        "SolarizeAdd": lambda: colors.solarize_add(pixels, int(part * 110)),
        "Color": lambda: colors.color(pixels, part * 1.8 + 0.1),
        "Contrast": lambda: colors.contrast(pixels, part * 1.8 + 0.1),
        "Brightness": lambda: colors.brightness(pixels, part * 1.8 + 0.1),
        "Sharpness": lambda: colors.sharpness(pixels, part * 1.8 + 0.1),
        "Flip": lambda: pixels[:, ::-1],
    }
    return operations[kind]()


def _warped(kind: str, pixels: Pixels, amount: float) -> Pixels:
    if kind == "Rotate":
        return warps.rotate(pixels, amount)
    if kind.startswith("Translate"):
        return warps.translate(pixels, *_axes(kind, amount))
    return warps.shear_x(pixels, amount) if kind == "ShearX" else warps.shear_y(pixels, amount)


def _axes(kind: str, amount: float) -> tuple[float, float]:
    """(along x, along y)."""
    return (amount, 0.0) if kind.endswith("X") else (0.0, amount)


def _amount(kind: str, level: float, random: Random, translation: float) -> float:
    """Degrees, pixels or shear of a level, in either direction by chance."""
    most = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3}.get(kind, translation)
    amount = level / _MOST_LEVEL * most
    return amount if random.random() >= 0.5 else -amount


def _each_box(
    pixels: Pixels, boxes: Boxes, name: str, probability: float, level: float, random: Random
) -> Pixels:
    """An operation inside of each box, in chance order."""
    kind = name.removesuffix("_Only_BBoxes")
    warps_it = kind == "Rotate" or kind.startswith(("Translate", "Shear"))
    result = pixels.copy()
    amount = _amount(kind, level, random, _BOX_TRANSLATION) if warps_it else 0.0
    for box in boxes[random.permutation(len(boxes))]:
        if random.random() + probability < 1:
            continue
        rows, columns = _inside(box, pixels.shape[:2])
        part = result[rows, columns]
        if part.size:
            changed = _warped(kind, part, amount) if warps_it else _changed(kind, part, level, random, _BOX_CUTOUT)
            result[rows, columns] = changed.copy()
    return result


def _cutout_in_box(pixels: Pixels, boxes: Boxes, fraction: float, random: Random) -> Pixels:
    """A grey rectangle around a place in one of the boxes."""
    if not len(boxes):
        return pixels
    y0, x0, y1, x1 = _corners(boxes[int(random.integers(len(boxes)))], pixels.shape[:2])
    half_height, half_width = int(fraction * ((y1 - y0 + 1) / 2)), int(fraction * ((x1 - x0 + 1) / 2))
    y, x = (int(random.integers(low, max(low, high) + 1)) for low, high in ((y0, y1), (x0, x1)))
    return colors.cutout(pixels, half_height, half_width, y, x)


def _corners(box: Any, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """First and last pixel of a box on both axes; the last may be one beyond the picture."""
    height, width = np.float32(size[0]), np.float32(size[1])
    return int(height * box[0]), int(width * box[1]), int(height * box[2]), int(width * box[3])


def _inside(box: Any, size: tuple[int, ...]) -> tuple[slice, slice]:
    y0, x0, y1, x1 = _corners(box, size)
    return slice(y0, min(y1, size[0] - 1) + 1), slice(x0, min(x1, size[1] - 1) + 1)
