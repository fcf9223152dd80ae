"""Config fields that a checkpoint's own file decides, beside its variables: what they are, and how anchors are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effdet_model.anchors import generate_anchors
from effdet_model.config import ASPECT_RATIO_PAIRS, ASPECT_RATIOS
from effdet_model.errors import InputError
from effdet_model.fpn_graph import feature_sizes

MAX_ANCHORS = 64
"""At one location."""
_MIN_LEVELS = 2
_SHOWN = {"image_size": "image size", "mean_rgb": "mean", "stddev_rgb": "standard deviation"}


@dataclass
class Stated:
    """Config fields that a file itself decides, and sentences about them.

    Attributes:
        fields: under google/automl's names. notes: for the user.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def listed_fields(fields: Mapping[str, Any]) -> str:
    """Config fields for a sentence."""

    def shown(key: str, value: Any) -> str:
        if key == "image_size":
            return f"{value[0]}x{value[1]}"
        if isinstance(value, Mapping):
            return " and ".join(f"{name} {shown('', item)}" for name, item in value.items())
        if isinstance(value, tuple):
            return "[" + ", ".join(shown("", item) for item in value) + "]"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{_SHOWN.get(key, key)} {shown(key, value)}" for key, value in fields.items())


def levels_and_anchors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[int], int]:
    """The levels that the heads' batch norms are of, and the anchors per location; ([], 0) where they do not tell."""
    levels = sorted({int(found[1]) for name in shapes if (found := re.match(r"class_net/class-0-bn-(\d{1,2})/", name))})
    bias = shapes.get("box_net/box-predict/bias", ())
    known = len(bias) == 1 and len(levels) >= _MIN_LEVELS and levels == list(range(levels[0], levels[-1] + 1))
    return (levels, bias[0] // 4) if known else ([], 0)


def anchor_fields(
    boxes: np.ndarray, image_size: tuple[int, int], levels: Sequence[int], count: int
) -> dict[str, Any] | None:
    """num_scales, aspect_ratios and anchor_scale that make exactly these anchors; None: there are none such.

    Args:
        boxes: float32 [N, 4], (y0, x0, y1, x1) in pixels, in google/automl's order. count: anchors per location.
    """
    sizes = feature_sizes(image_size, levels[-1])
    stride_y, stride_x = (side / float(cells) for side, cells in zip(image_size, sizes[levels[0]], strict=True))
    high = (boxes[:count, 2] - boxes[:count, 0]).astype(np.float64) / stride_y
    wide = (boxes[:count, 3] - boxes[:count, 1]).astype(np.float64) / stride_x
    if not (np.isfinite(boxes).all() and (high > 0).all() and (wide > 0).all()):
        return None
    for ratios in range(1, count + 1):
        if count % ratios:
            continue
        for aspects in _aspects(high[:ratios], wide[:ratios]):
            scale = _rounded(math.sqrt(high[0] * wide[0] / _area(aspects[0])))
            fields = {"num_scales": count // ratios, "aspect_ratios": aspects, "anchor_scale": scale}
            try:
                made = generate_anchors(
                    image_size, levels[0], levels[-1], count // ratios, aspects, scale
                )
            except (InputError, ValueError):
                continue
            if made.shape == boxes.shape and np.allclose(made, boxes, rtol=1e-6, atol=1e-3):
                return fields
    return None


def _aspects(high: np.ndarray, wide: np.ndarray) -> list[tuple[Any, ...]]:
    """Readings of the first octave's shapes: google/automl's own first, then ratios as they are."""
    known: tuple[tuple[Any, ...], ...] = (ASPECT_RATIOS, ASPECT_RATIO_PAIRS)
    plain = tuple(_rounded(w / h) for h, w in zip(high, wide, strict=True))
    return [*(aspects for aspects in known if len(aspects) == len(high)), plain]


def _area(aspect: Any) -> float:
    return float(aspect[0] * aspect[1]) if isinstance(aspect, tuple) else 1.0


def _rounded(value: float) -> float:
    """A number as people wrote it, from one that went through float32."""
    return round(value, 4) if abs(round(value, 4) - value) < 1e-5 * max(1.0, value) else value
