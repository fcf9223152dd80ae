"""The port's configuration against the reference's own: field by field by meaning, and anchors value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verify.reference.configuration.facts import DEFAULTS, FIXED
from verify.reference.configuration.official import official_name
from verify.reference.fpn import nodes
from verify.reference.pipeline import anchor_boxes

ANCHORS = "anchors"
"""Name under which anchor boxes that differ are reported."""

_GRAPH_FIELDS = ("fpn_name", "fpn_weight_method", "fpn_config")
_ANCHOR_FIELDS = ("image_size", "min_level", "max_level", "num_scales", "aspect_ratios", "anchor_scale")
_TRAINING_ARGUMENTS = ("drop_path_rate", "drop_rate")
_SAME_ACTIVATION = {"silu": "swish", "swish_native": "swish"}


@dataclass(frozen=True)
class ConfigDifference:
    """One field in which the port is configured otherwise than the reference.

    Attributes:
        field: google/automl's name, or effdet's where the official code has no choice; `ANCHORS` for anchor boxes.
        reference, port: both values as they stand; for anchors the box (y0, x0, y1, x1) that differs most.
        declared: whether the user declared the field with --hparams, so that it does not fail.
        remedy: what to do about it; may be empty.
    """

    field: str
    reference: Any
    port: Any
    declared: bool = False
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.field}: reference {shown(self.reference)}, port {shown(self.port)}"


def config_differences(
    reference: Mapping[str, Any], port: Mapping[str, Any], declared: Collection[str] = ()
) -> list[ConfigDifference]:
    """Every field that changes what is computed, where both mean different things; then the anchors.

    4 and 4.0, swish and silu, a number and three of it, a list and a tuple, None and the default are the same.

    Args:
        reference: from `reference_config`. port: plain values (`EfficientDetConfig.to_dict()`).
        declared: fields that the user set with --hparams.
    """
    found = list(_fields(reference, port, declared))
    names = {difference.field for difference in found}
    found += [difference for difference in _graph(reference, port, declared) if difference.field not in names]
    return [*found, *_anchors(reference, port, found)]


def _fields(
    reference: Mapping[str, Any], port: Mapping[str, Any], declared: Collection[str]
) -> Iterator[ConfigDifference]:
    if not _same_model(reference, port):
        yield ConfigDifference("name", reference["name"], port["name"], False, "Name the variant with --variant.")
    for field in (*DEFAULTS, *FIXED):
        if field in _GRAPH_FIELDS:
            continue
        mine, theirs = port.get(field, FIXED.get(field)), reference.get(field, FIXED.get(field))
        if field == "head_act_type":
            mine, theirs = mine or port["act_type"], reference["act_type"]
            if port["act_type"] != theirs and mine == port["act_type"]:
                continue  # it follows act_type, which is reported
        if _meaning(field, mine, port) != _meaning(field, theirs, reference):
            if field in ("nms_configs", "norm_kwargs", "backbone_args"):
                theirs, mine = _differing_keys(field, theirs, mine)
            yield ConfigDifference(field, theirs, mine, field in declared, _remedy(field, mine))


def _same_model(reference: Mapping[str, Any], port: Mapping[str, Any]) -> bool:
    try:
        return official_name(str(port["name"]))[0] == reference["name"]
    except ValueError:
        return False


def _graph(
    reference: Mapping[str, Any], port: Mapping[str, Any], declared: Collection[str]
) -> Iterator[ConfigDifference]:
    """The feature network: named by the fields that differ where its nodes or their fusion do."""
    if _wiring(reference) == _wiring(port):
        return
    differing = [field for field in _GRAPH_FIELDS if _plain(reference.get(field)) != _plain(port.get(field))]
    at_work = [field for field in differing if _wiring({**reference, field: port.get(field)}) != _wiring(reference)]
    for field in at_work or differing:
        yield ConfigDifference(
            field, reference.get(field), port.get(field), field in declared, _remedy(field, port.get(field))
        )


def _wiring(config: Mapping[str, Any]) -> Any:
    """Level, inputs and fusion of every node; what TensorFlow has no network of stands as it is."""
    try:
        return [(node.level, node.inputs, node.method) for node in nodes(config)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return [_plain(config.get(field)) for field in _GRAPH_FIELDS]


def _anchors(
    reference: Mapping[str, Any], port: Mapping[str, Any], found: Sequence[ConfigDifference]
) -> Iterator[ConfigDifference]:
    """The port's own boxes against the reference's, float by float, at the reference's image size."""
    from effdet_model.anchors import generate_anchors

    theirs = anchor_boxes(reference)
    try:
        mine = generate_anchors(
            tuple(reference["image_size"]), port["min_level"], port["max_level"], port["num_scales"],
            port["aspect_ratios"], port["anchor_scale"],
        )  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        yield ConfigDifference(ANCHORS, f"{len(theirs)} boxes", f"none: {error}")
        return
    fields = [difference for difference in found if difference.field in _ANCHOR_FIELDS[1:]]
    declared = bool(fields) and all(difference.declared for difference in fields)
    if theirs.shape != mine.shape:
        yield ConfigDifference(ANCHORS, f"{len(theirs)} boxes", f"{len(mine)} boxes", declared)
    elif not np.array_equal(theirs, mine):
        worst = int(np.abs(theirs - mine).max(axis=1).argmax())
        yield ConfigDifference(ANCHORS, theirs[worst].tolist(), mine[worst].tolist(), declared)


def _meaning(field: str, value: Any, config: Mapping[str, Any]) -> Any:
    """What a value stands for, in one form."""
    try:
        return _MEANINGS[field](value, config) if field in _MEANINGS else _plain(value)
    except (TypeError, ValueError, AttributeError, KeyError):
        return _plain(value)


def _activation(value: Any, config: Mapping[str, Any]) -> str:
    return _SAME_ACTIVATION.get(str(value), str(value))


def _three(value: Any, config: Mapping[str, Any]) -> list[float]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [float(item) for item in values * (3 if len(values) == 1 else 1)]


def _per_level(value: Any, config: Mapping[str, Any]) -> float | list[float]:
    """One number where all levels have it, so that another number of levels is not another scale."""
    values = [float(item) for item in value] if isinstance(value, list | tuple) else [float(value)]
    return values[0] if len(set(values)) == 1 else values


def _factors(value: Any, config: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(width, height) factors of every aspect."""
    return [
        (float(aspect[0]), float(aspect[1])) if isinstance(aspect, list | tuple)
        else (math.sqrt(aspect), 1.0 / math.sqrt(aspect))
        for aspect in value
    ]


def _suppression(value: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """tf2/postprocess.py: None and 0 of the thresholds and of sigma are the method's default."""
    known = {**DEFAULTS["nms_configs"], **(value or {})}
    thresholds = {"iou_thresh": known["iou_thresh"] or 0.5, "sigma": known["sigma"] or 0.5}
    plain = {**known, **thresholds, "score_thresh": known["score_thresh"] or 0.0, "method": known["method"] or "hard"}
    return _plain(plain)


def _norm(value: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"eps": 1e-5, "momentum": 0.1, **_plain(value or {})}


def _arguments(value: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in _plain(value or {}).items() if key not in _TRAINING_ARGUMENTS}


def _residual(value: Any, config: Mapping[str, Any]) -> Any:
    return value or None


_MEANINGS: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "act_type": _activation, "head_act_type": _activation, "mean_rgb": _three, "stddev_rgb": _three,
    "anchor_scale": _per_level, "aspect_ratios": _factors, "nms_configs": _suppression, "norm_kwargs": _norm,
    "backbone_args": _arguments, "survival_prob": _residual,
}  # fmt: skip


def _differing_keys(field: str, reference: Any, port: Any) -> tuple[Any, Any]:
    """Of two mappings, the keys in which they mean different things."""
    if not isinstance(port or {}, Mapping) or not isinstance(reference or {}, Mapping):
        return reference, port
    one, other = _meaning(field, reference, {}), _meaning(field, port, {})
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return {key: (reference or {}).get(key) for key in keys}, {key: (port or {}).get(key) for key in keys}


def _remedy(field: str, port: Any) -> str:
    if field in FIXED:
        return "google/automl has no such choice; the port computes something else."
    pairs = field == "aspect_ratios" and isinstance(port, list | tuple) and isinstance(port[0], list | tuple)
    if pairs:
        return (
            "Where the checkpoint is a release of before 2020-09-10, say so: --family coco2 (or coco, coco640); else "
            "--hparams with aspect_ratios in a YAML file."
        )
    if isinstance(port, str | int | float) and not isinstance(port, bool):
        return f"If the checkpoint was trained so, declare it: --hparams {field}={port}."
    return f"If the checkpoint was trained so, declare {field} with --hparams."


def _plain(value: Any) -> Any:
    """Numbers as they compare, sequences as lists, keys as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def shown(value: Any) -> str:
    """A value for a sentence: numbers short, lists in brackets."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
