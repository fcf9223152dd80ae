"""What a program says of the model's configuration: image size, anchors, preprocessing, activation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effdet_model.anchors import generate_anchors
from effdet_model.config import ASPECT_RATIO_PAIRS, ASPECT_RATIOS, IMAGENET_MEAN_RGB, IMAGENET_STDDEV_RGB
from effdet_model.errors import InputError
from effdet_model.fpn_graph import feature_sizes
from porting.checkpoint.saved_model.program import FLOAT, Program

MAX_SIDE = 8192
"""Pixels; a larger image has no EfficientDet."""
_MIN_LEVELS = 2
_FEWEST = 20
"""Activations of a network; the parts around it have fewer of the same operations."""
_MAX_ANCHORS = 64
"""At one location."""
_SHOWN = {"image_size": "image size", "mean_rgb": "mean", "stddev_rgb": "standard deviation"}


@dataclass
class Stated:
    """Config fields that a file itself decides, and sentences about them.

    Attributes:
        fields: under google/automl's names. notes: for the user.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def stated_by(program: Program | None, shapes: Mapping[str, tuple[int, ...]]) -> Stated:
    """What a program decides; without one, or where it is silent, nothing.

    Args:
        shapes: canonical variable name -> TensorFlow shape; the heads' tell levels and anchors per location.
    """
    found = Stated()
    if program is None:
        found.notes.append(
            "no graph lies beside the variables (saved_model.pb is missing or empty), so that nothing in the file "
            "tells image size, anchors and preprocessing"
        )
        return found
    sizes = _image_sizes(program)
    if len(sizes) == 1:
        found.fields["image_size"] = sizes[0]
    elif sizes:
        shown = ", ".join(f"{height}x{width}" for height, width in sizes)
        found.notes.append(f"the signatures take images of several sizes ({shown}); none was taken from them")
    found.fields |= _preprocessing(program)
    activation = _activation(program)
    if activation:
        found.fields["act_type"] = activation
    _add_anchors(found, program, *levels_and_anchors(shapes))
    if found.fields:
        found.notes.insert(0, f"the SavedModel's own graph says {_listed(found.fields)}")
    return found


def _listed(fields: dict[str, Any]) -> str:
    def shown(key: str, value: Any) -> str:
        if key == "image_size":
            return f"{value[0]}x{value[1]}"
        if isinstance(value, tuple):
            return "[" + ", ".join(shown("", item) for item in value) + "]"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{_SHOWN.get(key, key)} {shown(key, value)}" for key, value in fields.items())


def _image_sizes(program: Program) -> list[tuple[int, int]]:
    """(height, width) of the inputs that are normalised images of a fixed size, each once."""
    sizes = []
    for signature in program.signatures.values():
        for spec in signature.inputs:
            if spec.dtype == FLOAT and spec.shape and len(spec.shape) == 4 and spec.shape[3] == 3:
                size = spec.shape[1], spec.shape[2]
                if all(0 < side <= MAX_SIDE for side in size) and size not in sizes:
                    sizes.append(size)
    return sizes


def _preprocessing(program: Program) -> dict[str, Any]:
    if len(program.subtracted) != 1 or len(program.divided_by) != 1:
        return {}
    mean, stddev = program.subtracted[0], program.divided_by[0]
    for known_mean, known_stddev in (
        (IMAGENET_MEAN_RGB, IMAGENET_STDDEV_RGB), ((127.0,) * 3, (128.0,) * 3), ((0.0,) * 3, (1.0,) * 3),
    ):  # fmt: skip
        if _same(mean, known_mean) and _same(stddev, known_stddev):
            mean, stddev = known_mean, known_stddev
    return {"mean_rgb": _short(mean), "stddev_rgb": _short(stddev)}


def _same(values: Sequence[float], known: Sequence[float]) -> bool:
    return bool(np.array_equal(np.asarray(values, np.float32), np.asarray(known, np.float32)))


def _short(values: Sequence[float]) -> float | tuple[float, ...]:
    """Three numbers as google/automl writes them: one where they are the same."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def _activation(program: Program) -> str | None:
    """ReLU6 or swish, where one alone is in the network; others have the same operations in other places.

    A squeeze-and-excitation (one Mean each) has a sigmoid of its own, and fusion weights go through a Relu.
    """
    counts = program.operations
    if any(counts[operation] for operation in ("Elu", "Selu", "Softplus", "HardSwish", "Tanh")):
        return None
    relu6, sigmoid = counts["Relu6"], counts["Sigmoid"]
    if relu6 > _FEWEST and relu6 > 4 * sigmoid and not counts["Relu"]:
        return "relu6"
    return "swish" if not relu6 and sigmoid > _FEWEST and sigmoid > 2 * counts["Mean"] else None


def levels_and_anchors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[int], int]:
    """The levels that the heads' batch norms are of, and the anchors per location; ([], 0) where they do not tell."""
    levels = sorted({int(found[1]) for name in shapes if (found := re.match(r"class_net/class-0-bn-(\d{1,2})/", name))})
    bias = shapes.get("box_net/box-predict/bias", ())
    known = len(bias) == 1 and len(levels) >= _MIN_LEVELS and levels == list(range(levels[0], levels[-1] + 1))
    return (levels, bias[0] // 4) if known else ([], 0)


def _add_anchors(found: Stated, program: Program, levels: Sequence[int], count: int) -> None:
    size = found.fields.get("image_size")
    if size is None or not 0 < count <= _MAX_ANCHORS:
        return
    shapes = feature_sizes(size, levels[-1])
    total = count * sum(shapes[level][0] * shapes[level][1] for level in levels)
    tables = [boxes for boxes in program.boxes if len(boxes) == total]
    if len(tables) != 1:
        return
    fields = anchor_fields(tables[0], size, levels, count)
    if fields:
        found.fields |= fields
    else:
        found.notes.append(
            "the graph has anchor boxes that no num_scales, aspect_ratios and anchor_scale make; detections with these "
            "weights use the anchors of the configuration instead"
        )


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
