"""Changes of colour by torchvision's transforms v2: well kept, and needed by timm anyhow.

(albumentations is no longer developed under its free licence.) Their own random choice is left out: numbers come from
outside, as everywhere here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional

from training.augmentation.scene import Pixels

_HUE = 0.1


def color_jitter(pixels: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue changed in an order of chance.

    Args:
        strength: from 0 to 1: factors lie from 1 - strength to 1 + strength, the hue turns by at most a tenth of it.
    """
    changes: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
        functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation,
    )  # fmt: skip
    amounts = random.uniform(-strength, strength, 4)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for number in random.permutation(4):
        if number < 3:
            image = changes[number](image, 1.0 + float(amounts[number]))
        else:
            image = functional.adjust_hue(image, float(amounts[number]) * _HUE)
    return np.array(image)
