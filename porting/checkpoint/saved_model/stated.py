"""What a SavedModel's program says of the model's configuration: image size, anchors, preprocessing, activation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effdet_model.config import IMAGENET_MEAN_RGB, IMAGENET_STDDEV_RGB
from effdet_model.fpn_graph import feature_sizes
from effdet_model.nms_profiles import DEFAULT_NMS_CONFIGS
from porting.checkpoint.saved_model.program import FLOAT, Program
from porting.checkpoint.stated import MAX_ANCHORS, Stated, anchor_fields, levels_and_anchors, listed_fields

MAX_SIDE = 8192
"""Pixels; a larger image has no EfficientDet."""
_LIMITS = {"iou_thresh": 1.0, "score_thresh": 1.0, "sigma": 100.0, "max_output_size": 1e6, "max_nms_inputs": 1e7}
_FEWEST = 20
"""Activations of a network; the parts around it have fewer of the same operations."""


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
    _add_suppression(found, program)
    if found.fields:
        found.notes.insert(0, f"the SavedModel's own graph says {listed_fields(found.fields)}")
    return found


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


def _add_anchors(found: Stated, program: Program, levels: Sequence[int], count: int) -> None:
    size = found.fields.get("image_size")
    if size is None or not 0 < count <= MAX_ANCHORS:
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


def _add_suppression(found: Stated, program: Program) -> None:
    """nms_configs where the graph suppresses otherwise than google/automl's defaults; what it does, for the user."""
    if len(program.suppression) > 1:
        found.notes.append("the graph suppresses overlapping boxes in several ways; none was taken from them")
    if len(program.suppression) != 1:
        return
    most, iou, score, sigma = program.suppression[0]
    method = "gaussian" if sigma > 0 else "hard"
    own = {"iou_thresh": 0.5, "score_thresh": 0.001 if sigma > 0 else 0.0, "sigma": 0.5, "max_output_size": 100.0}
    says = {"iou_thresh": iou, "score_thresh": max(score, 0.0), "sigma": 2 * sigma, "max_output_size": most}
    if sigma <= 0:
        del says["sigma"]
    rounded = {key: float(f"{value:.6g}") if math.isfinite(value) else -1.0 for key, value in says.items()}
    if any(not 0 <= rounded[key] <= limit for key, limit in _LIMITS.items() if key in rounded):
        found.notes.append("the graph's suppression of overlapping boxes has settings out of range; none was taken")
        return
    settings: dict[str, Any] = {key: value for key, value in rounded.items() if value != own[key]}
    if method != DEFAULT_NMS_CONFIGS["method"]:
        settings["method"] = method
    if "max_output_size" in settings:
        settings["max_output_size"] = int(settings["max_output_size"])
    if len(program.top_k) == 1 and 0 < program.top_k[0] <= _LIMITS["max_nms_inputs"]:
        settings["max_nms_inputs"] = program.top_k[0]
    if settings:
        found.fields["nms_configs"] = settings
    shown = ", ".join(f"{key} {value:g}" for key, value in rounded.items())
    found.notes.append(
        f"the graph's own suppression is TensorFlow's, {method} ({shown}); to suppress as it does, whose boxes leave "
        f"out other classes' or not, see --nms graph_{method} and global_{method}"
    )
