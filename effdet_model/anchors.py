"""Anchor boxes, bit-equal with google/automl's (tf2/anchors.py, 6a54c87)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from effdet_model.errors import InputError
from effdet_model.fpn_graph import feature_sizes

AspectRatio = float | Sequence[float]


def generate_anchors(
    image_size: tuple[int, int],
    min_level: int,
    max_level: int,
    num_scales: int,
    aspect_ratios: Sequence[AspectRatio],
    anchor_scale: float | Sequence[float],
) -> npt.NDArray[np.float32]:
    """Anchor boxes of all levels as float32 [anchors, 4], order (y0, x0, y1, x1), pixels of the model input.

    The order is level, row, column, octave scale, aspect ratio: the order of the model's outputs with
    channels last. The strides are image size over feature size, so they are fractions where the image
    size is no multiple of 2**level. An aspect is either a ratio width / height (today's configurations)
    or a pair (width factor, height factor) (before 2020-09-10: 1.4 and 0.7 instead of the square roots of
    2 and 0.5). `anchor_scale` is one number or one per level.

    Raises InputError where `anchor_scale` has another length than there are levels.
    """
    levels = range(min_level, max_level + 1)
    scales = _scale_of_each_level(anchor_scale, len(levels))
    sizes = feature_sizes(image_size, max_level)
    shapes = [
        (octave / float(num_scales), *_width_height_factors(aspect))
        for octave in range(num_scales)
        for aspect in aspect_ratios
    ]
    per_level = []
    for level, scale in zip(levels, scales, strict=True):
        stride_y = image_size[0] / float(sizes[level][0])
        stride_x = image_size[1] / float(sizes[level][1])
        half_heights = np.array([scale * stride_y * 2**octave * high / 2.0 for octave, _, high in shapes])
        half_widths = np.array([scale * stride_x * 2**octave * wide / 2.0 for octave, wide, _ in shapes])
        rows = np.arange(stride_y / 2, image_size[0], stride_y)[:, None, None]
        columns = np.arange(stride_x / 2, image_size[1], stride_x)[None, :, None]
        corners = np.broadcast_arrays(
            rows - half_heights, columns - half_widths, rows + half_heights, columns + half_widths
        )
        per_level.append(np.stack(corners, axis=-1).reshape(-1, 4))
    return np.concatenate(per_level).astype(np.float32)


def anchors_from_config(config: Any, image_size: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
    """`generate_anchors` with the fields of a model configuration (names as in automl's hparams_config.py)."""
    return generate_anchors(
        image_size or config.image_size,
        config.min_level,
        config.max_level,
        config.num_scales,
        config.aspect_ratios,
        config.anchor_scale,
    )


def _scale_of_each_level(anchor_scale: float | Sequence[float], levels: int) -> list[float]:
    if isinstance(anchor_scale, (int, float)):
        return [anchor_scale] * levels
    scales = list(anchor_scale)
    if len(scales) != levels:
        raise InputError(
            f"anchor_scale: expected one number or one for each of the {levels} levels, "
            f"found {len(scales)} numbers; give {levels}."
        )
    return scales


def _width_height_factors(aspect: AspectRatio) -> tuple[float, float]:
    if isinstance(aspect, (int, float)):
        wide = math.sqrt(aspect)
        return wide, 1.0 / wide
    wide, high = aspect
    return wide, high
