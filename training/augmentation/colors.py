"""Operations on pixels alone, as google/automl's aug/autoaugment.py (6a54c87) computes them: float32, truncated."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from training.augmentation.scene import Pixels

F = np.float32
GREY = 128
"""What empties are filled with."""

_GREY_WEIGHTS = (F(0.2989), F(0.5870), F(0.1140))
_LEVELS = np.arange(256, dtype=np.uint8)


def blend(first: Any, second: Any, factor: float) -> Pixels:
    """From the first picture (0) to the second (1), and beyond it; uint8 arrays that broadcast."""
    if factor in (0.0, 1.0):
        return np.array(np.broadcast_arrays(first, second)[int(factor)])
    low, high = np.asarray(first, F), np.asarray(second, F)
    mixed = low + F(factor) * (high - low)
    return (mixed if 0 < factor < 1 else np.clip(mixed, F(0), F(255))).astype(np.uint8)


def grey(pixels: Pixels) -> Pixels:
    """uint8 [h, w, 1]: TensorFlow's rgb_to_grayscale."""
    parts = [pixels[..., c].astype(F) * F(1 / 255) * _GREY_WEIGHTS[c] for c in range(3)]
    return ((parts[0] + parts[1] + parts[2]) * F(255.5)).astype(np.uint8)[..., None]


def color(pixels: Pixels, factor: float) -> Pixels:
    """Less colour below 1, more above."""
    return blend(grey(pixels), pixels, factor)


def contrast(pixels: Pixels, factor: float) -> Pixels:
    """Less contrast below 1, more above, around the mean grey."""
    mean = np.uint8(np.clip(grey(pixels).mean(dtype=np.float64), 0, 255))
    return blend(mean, _LEVELS, factor)[pixels]


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """Darker below 1, brighter above."""
    return blend(np.uint8(0), _LEVELS, factor)[pixels]


def sharpness(pixels: Pixels, factor: float) -> Pixels:
    """Smoother below 1, sharper above; the outermost pixels stay."""
    height, width = pixels.shape[:2]
    if min(height, width) < 3:
        return pixels
    values = pixels.astype(F)
    total = np.zeros((height - 2, width - 2, 3), F)
    for row in range(3):
        for column in range(3):
            weight = F(5 if row == column == 1 else 1) / F(13)
            total += values[row : row + height - 2, column : column + width - 2] * weight
    smooth = pixels.copy()
    smooth[1:-1, 1:-1] = np.clip(total, F(0), F(255)).astype(np.uint8)
    return blend(smooth, pixels, factor)


def autocontrast(pixels: Pixels) -> Pixels:
    """Each channel stretched to 0..255."""
    return _by_channel(pixels, _stretched)


def equalize(pixels: Pixels) -> Pixels:
    """Each channel's histogram flattened."""
    return _by_channel(pixels, _flattened)


def posterize(pixels: Pixels, bits: int) -> Pixels:
    """The highest bits alone, at least one."""
    shift = min(8 - bits, 7)
    kept: Pixels = ((_LEVELS >> shift) << shift).astype(np.uint8)
    return kept[pixels]


def solarize(pixels: Pixels, threshold: int) -> Pixels:
    """Values from the threshold on inverted."""
    return np.where(_LEVELS.astype(int) < threshold, _LEVELS, 255 - _LEVELS)[pixels]


def solarize_add(pixels: Pixels, addition: int, threshold: int = 128) -> Pixels:
    """Values below the threshold made brighter."""
    added = np.clip(_LEVELS.astype(int) + addition, 0, 255).astype(np.uint8)
    return np.where(_LEVELS < threshold, added, _LEVELS)[pixels]


def cutout(pixels: Pixels, half_height: int, half_width: int, y: int, x: int) -> Pixels:
    """A grey rectangle around (y, x), as far as it lies in the picture."""
    result = pixels.copy()
    result[max(0, y - half_height) : max(0, y + half_height), max(0, x - half_width) : max(0, x + half_width)] = GREY
    return result


def _by_channel(pixels: Pixels, table_of: Any) -> Pixels:
    channels = [np.take(table_of(pixels[..., c]), pixels[..., c]) for c in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def _stretched(channel: Pixels) -> npt.NDArray[np.uint8]:
    low, high = F(channel.min(initial=255)), F(channel.max(initial=0))
    if high <= low:
        return _LEVELS
    scale = F(255.0) / (high - low)
    return np.clip(_LEVELS.astype(F) * scale + -low * scale, F(0), F(255)).astype(np.uint8)


def _flattened(channel: Pixels) -> npt.NDArray[np.uint8]:
    counts = np.bincount(channel.ravel(), minlength=256)
    present = counts[counts > 0]
    step = int(present[:-1].sum()) // 255
    if not step:
        return _LEVELS
    table = (np.cumsum(counts) + step // 2) // step
    return np.clip(np.concatenate([[0], table[:-1]]), 0, 255).astype(np.uint8)
