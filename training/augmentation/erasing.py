"""Parts of a picture taken away: google/automl's grid mask, effdet's random erasing."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from training.augmentation.scene import Pixels, Prepared

_RATIO, _ROTATION, _LARGER = 0.6, 10.0, 1.5
"""Of aug/gridmask.py (6a54c87): share of a grid's step that stays, degrees, size of the grid against the picture."""
_MIN_AREA, _MAX_AREA, _MIN_ASPECT, _TRIES = 0.02, 0.25, 0.3, 10
"""Of effdet's random_erasing.py."""


def grid_mask(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """The picture with the holes of a turned grid made black.

    google/automl applies it with a probability of .69 (where a normal number lies below .5).
    """
    height, width = pixels.shape[:2]
    side = int(_LARGER * max(height, width))
    low, high = sorted((int(height * 0.5), int(width * 0.3)))
    step = max(2, int(random.integers(low, high + 1)))
    length = min(max(int(step * _RATIO + 0.5), 1), step - 1)
    stays = []
    for _ in range(2):
        start = int(random.integers(0, step + 1))
        line = np.zeros(side, bool)
        for number in range(side // step):
            line[step * number + start : step * number + start + length] = True
        stays.append(line)
    grid = (stays[0][:, None] | stays[1][None, :]).astype(np.uint8) * 255
    angle = _ROTATION * random.normal(-1, 1)
    turned = np.asarray(Image.fromarray(grid).rotate(angle, Image.Resampling.BILINEAR)) == 255
    top, left = (side - height) // 2, (side - width) // 2
    return pixels * turned[top : top + height, left : left + width, None]


def random_erase(prepared: Prepared, count: int, mode: str, random: np.random.Generator) -> Prepared:
    """The input with one to `count` rectangles of the picture replaced.

    Args:
        mode: "const": the mean colour; "rand": one colour of normal chance; "pixel": normal noise.
    """
    image = prepared.image.copy()
    height, width = prepared.content
    number = int(random.integers(1, count + 1))
    for _ in range(number):
        for _ in range(_TRIES):
            area = random.uniform(_MIN_AREA, _MAX_AREA) * height * width / number
            aspect = math.exp(random.uniform(math.log(_MIN_ASPECT), -math.log(_MIN_ASPECT)))
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if rows < height and columns < width:
                top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
                shape = {"const": None, "rand": (3, 1, 1), "pixel": (3, rows, columns)}[mode]
                noise = 0.0 if shape is None else random.standard_normal(shape, dtype=np.float32)
                image[:, top : top + rows, left : left + columns] = noise
                break
    return prepared._replace(image=image)
