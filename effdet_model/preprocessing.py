"""From a decoded image to the model's input: normalise, resize, pad, as google/automl's dataloader.py (6a54c87).

The order is the official one: normalisation first, then an aspect-preserving bilinear resize of the float
image, then zeros at the bottom and on the right, and last, where `scale_range` is set (AdvProp), x * 2 / 255 - 1,
which turns the padding into -1. All arithmetic is float32 in TensorFlow's order (half-pixel centres, no
antialiasing, columns before rows), so the result is bit-equal to TensorFlow's on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from effdet_model.errors import InputError

Float32 = npt.NDArray[np.float32]
_Neighbours = tuple[npt.NDArray[Any], npt.NDArray[Any], Float32]
"""(lower index, upper index, weight of the upper) of every position of one axis."""


def preprocess(image: Any, config: Any, image_size: tuple[int, int] | None = None) -> tuple[Tensor, float]:
    """(model input float32 [3, H, W], image scale) of a uint8 RGB image [h, w, 3], for a model's configuration.

    Boxes of the model's input times the image scale are boxes of the original image. `image_size` (height,
    width) replaces the configuration's. A model of other than 3 channels (`backbone_args["in_chans"]`) gets images of
    as many. Raises InputError for anything but uint8 [h, w, channels].
    """
    return prepare_image(
        image,
        image_size or config.image_size,
        config.mean_rgb,
        config.stddev_rgb,
        scale_range=bool(config.scale_range),
        channels=int(config.backbone_args.get("in_chans", 3)),
    )


def prepare_image(
    image: Any,
    image_size: tuple[int, int],
    mean_rgb: float | Sequence[float],
    stddev_rgb: float | Sequence[float],
    scale_range: bool = False,
    channels: int = 3,
) -> tuple[Tensor, float]:
    """`preprocess` with explicit parameters; mean and deviation are one number or one per channel."""
    pixels = _checked(image, channels)
    scaled, scale = scaled_size(pixels.shape[:2], image_size)
    resized = resize_bilinear(normalize(pixels, mean_rgb, stddev_rgb), scaled)
    padded = np.zeros((channels, *image_size), np.float32)
    padded[:, : scaled[0], : scaled[1]] = resized
    if scale_range:
        padded = padded * np.float32(2.0) / np.float32(255) - np.float32(1.0)
    return torch.from_numpy(padded), float(np.float32(1.0) / scale)


def normalize(
    image: npt.NDArray[np.uint8], mean_rgb: float | Sequence[float], stddev_rgb: float | Sequence[float]
) -> Float32:
    """(image - mean) / deviation as float32 [C, h, w] of a uint8 image [h, w, C].

    A table of the 256 values of every channel gives the same bits as the arithmetic on every pixel.
    """
    values = np.arange(256, dtype=np.float32)
    channels = image.shape[2]
    for name, given in (("mean_rgb", mean_rgb), ("stddev_rgb", stddev_rgb)):
        if isinstance(given, Sequence) and len(given) not in (1, channels):
            raise InputError(
                f"{name}: expected one number, or one for each of the {channels} channels, found {len(given)} numbers; "
                f"set {name}."
            )
    mean = np.broadcast_to(np.asarray(mean_rgb, np.float32), (channels,))
    deviation = np.broadcast_to(np.asarray(stddev_rgb, np.float32), (channels,))
    planes = [np.take((values - mean[c]) / deviation[c], image[..., c]) for c in range(channels)]
    return np.stack(planes)


def scaled_size(original: tuple[int, int], image_size: tuple[int, int]) -> tuple[tuple[int, int], np.float32]:
    """((height, width) of the image within the model's input, scale), both computed in float32.

    The scale is min(H / h, W / w); the scaled sizes are truncated, so float32 may lose a pixel, officially so.
    Raises InputError where a side would vanish.
    """
    height, width = np.float32(original[0]), np.float32(original[1])
    scale = min(np.float32(image_size[0]) / height, np.float32(image_size[1]) / width)
    scaled = int(height * scale), int(width * scale)
    if min(scaled) < 1:
        raise InputError(
            f"image: expected one whose sides both survive scaling to {image_size[0]}x{image_size[1]}, found "
            f"{original[0]}x{original[1]} (height x width), which becomes {scaled[0]}x{scaled[1]}; "
            "crop it or use a larger image size."
        )
    return scaled, scale


def normalize_and_resize(
    image: npt.NDArray[np.uint8],
    mean_rgb: float | Sequence[float],
    stddev_rgb: float | Sequence[float],
    size: tuple[int, int],
    rows: slice,
    columns: slice,
) -> Float32:
    """`resize_bilinear` of `normalize`: some rows and columns of the result, bit by bit what they are in the whole.

    Pixels that these do not depend on are left out from the beginning.
    """
    vertical, horizontal = _neighbours(image.shape[0], size[0], rows), _neighbours(image.shape[1], size[1], columns)
    used, vertical = _used_alone(vertical)
    left = int(horizontal[0][0])
    part = image[used, left : int(horizontal[1][-1]) + 1]
    horizontal = horizontal[0] - left, horizontal[1] - left, horizontal[2]
    return _resampled(normalize(part, mean_rgb, stddev_rgb), vertical, horizontal)


def resize_bilinear(image: Float32, size: tuple[int, int]) -> Float32:
    """float32 [C, height, width] of the given size out of float32 [C, h, w], as tf.image.resize does it."""
    used, vertical = _used_alone(_neighbours(image.shape[1], size[0]))
    source = image[:, used] if len(used) < image.shape[1] else image
    return _resampled(source, vertical, _neighbours(image.shape[2], size[1]))


def _used_alone(neighbours: _Neighbours) -> tuple[npt.NDArray[Any], _Neighbours]:
    """(indices that are used, in order; the neighbours among these alone)."""
    lower, upper, weights = neighbours
    used, positions = np.unique(np.concatenate((lower, upper)), return_inverse=True)
    return used, (positions[: len(lower)], positions[len(lower) :], weights)


def _resampled(image: Float32, vertical: _Neighbours, horizontal: _Neighbours) -> Float32:
    (top_rows, bottom_rows, row_weights), (left, right, column_weights) = vertical, horizontal
    wide = np.take(image, right, axis=2)
    starts = np.take(image, left, axis=2)
    wide -= starts
    wide *= column_weights
    wide += starts
    result = np.take(wide, bottom_rows, axis=1)
    tops = np.take(wide, top_rows, axis=1)
    result -= tops
    result *= row_weights[:, None]
    result += tops
    return result


def _neighbours(length: int, size: int, part: slice = slice(None)) -> _Neighbours:
    """(lower index, upper index, weight of the upper) of every output position in a part of one axis."""
    step = np.float32(length) / np.float32(size)
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    floor = np.floor(position)
    lower = np.maximum(floor.astype(np.int64), 0)
    upper = np.minimum(np.ceil(position).astype(np.int64), length - 1)
    return lower[part], upper[part], (position - floor)[part]


def _checked(image: Any, channels: int) -> npt.NDArray[np.uint8]:
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != channels or 0 in pixels.shape:
        order = " in RGB order" if channels == 3 else ""
        remedy = "convert it, or pass a path and let decode_image read it" if channels == 3 else "make it an array so"
        raise InputError(
            f"image: expected uint8 [height, width, {channels}]{order}, found {pixels.dtype} {list(pixels.shape)}; "
            f"{remedy}."
        )
    return pixels
