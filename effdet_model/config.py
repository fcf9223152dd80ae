"""What makes one EfficientDet differ from another: one frozen record with google/automl's field names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effdet_model.errors import InputError, unknown_name
from effdet_model.fpn_graph import WEIGHT_METHODS, FpnGraph, build_fpn_graph, feature_sizes
from effdet_model.nms_profiles import DEFAULT_NMS_CONFIGS

AspectRatio = float | tuple[float, float]

IMAGENET_MEAN_RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STDDEV_RGB = (0.229 * 255, 0.224 * 255, 0.225 * 255)

ASPECT_RATIOS = (1.0, 2.0, 0.5)
"""Anchor ratios (width / height) of the official code since 2020-09-10."""

ASPECT_RATIO_PAIRS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Anchor (width, height) factors of the official code until 2020-09-10."""

ACTIVATIONS = ("silu", "swish", "swish_native", "hswish", "relu", "relu6", "mish", "leaky_relu")


@dataclass(frozen=True)
class EfficientDetConfig:
    """One EfficientDet, its anchors and its preprocessing.

    Fields that google/automl's `hparams_config.py` (6a54c87) also has carry its names and meaning; the
    rest (from `pad_type` on) are choices that only the PyTorch side has, with effdet's meaning.
    """

    name: str
    backbone_name: str
    image_size: tuple[int, int] = (512, 512)
    """(height, width) in pixels."""
    num_classes: int = 90
    act_type: str = "swish"
    min_level: int = 3
    max_level: int = 7
    num_scales: int = 3
    aspect_ratios: tuple[AspectRatio, ...] = ASPECT_RATIOS
    """Ratios width / height, or (width, height) factors."""
    anchor_scale: float | tuple[float, ...] = 4.0
    """Anchor size over stride: one number, or one per level."""
    mean_rgb: float | tuple[float, ...] = IMAGENET_MEAN_RGB
    stddev_rgb: float | tuple[float, ...] = IMAGENET_STDDEV_RGB
    scale_range: bool = False
    """Whether pixels 0..255 are scaled to [-1, 1] after resizing and padding (AdvProp)."""
    box_class_repeats: int = 3
    fpn_cell_repeats: int = 3
    fpn_num_filters: int = 64
    separable_conv: bool = True
    apply_bn_for_resampling: bool = True
    conv_after_downsample: bool = False
    conv_bn_act_pattern: bool = False
    fpn_name: str | None = None
    fpn_weight_method: str | None = None
    fpn_config: Mapping[str, Any] | None = None
    """A BiFPN graph of one's own: {"nodes": [{"feat_level", "inputs_offsets"}, ...], "weight_method"}."""
    survival_prob: float | None = None
    """Where set, head repeats after the first have a residual connection, in inference as well."""
    label_map: str | Mapping[int, str] | None = None
    nms_configs: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_NMS_CONFIGS))
    pad_type: str = "same"
    """"same" pads as TensorFlow's SAME does; "" pads symmetrically."""
    redundant_bias: bool = True
    """Whether convolutions before a batch norm keep their bias, as the official model does."""
    norm_layer: str = "batchnorm2d"
    """Normalisation of BiFPN and heads: a name of timm's `get_norm_layer`."""
    norm_kwargs: Mapping[str, Any] = field(default_factory=lambda: {"eps": 1e-3, "momentum": 0.01})
    head_act_type: str | None = None
    head_bn_level_first: bool = False
    downsample_type: str = "max"
    upsample_type: str = "nearest"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    backbone_indices: tuple[int, ...] | None = None
    """timm feature indices of levels `min_level`, `min_level` + 1, ...; None: level - 1, as for EfficientNet."""

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def num_levels(self) -> int:
        """How many pyramid levels the heads see."""
        return self.max_level - self.min_level + 1

    @property
    def anchors_per_location(self) -> int:
        """Anchors at each place of each level."""
        return self.num_scales * len(self.aspect_ratios)

    @property
    def levels(self) -> range:
        """The pyramid levels, finest first."""
        return range(self.min_level, self.max_level + 1)

    @property
    def is_official(self) -> bool:
        """Whether TensorFlow's official model has this architecture (an official backbone, SAME padding)."""
        return (
            self.backbone_name.startswith("efficientnet-")
            and self.pad_type == "same"
            and self.redundant_bias
            and self.norm_layer == "batchnorm2d"
            and self.downsample_type == "max"
            and self.upsample_type == "nearest"
            and self.head_act_type in (None, self.act_type)
            and not self.head_bn_level_first
            and not (self.fpn_name or "").startswith("pan")
        )

    def fpn_graph(self) -> FpnGraph:
        """The BiFPN's nodes for this config's levels."""
        return build_fpn_graph(
            self.fpn_name, self.min_level, self.max_level, self.fpn_weight_method, self.fpn_config
        )

    def feature_sizes(self, image_size: tuple[int, int] | None = None) -> list[tuple[int, int]]:
        """(height, width) of every level from 0 (the image) to `max_level`; each halves, rounding up."""
        return feature_sizes(image_size or self.image_size, self.max_level)

    def replace(self, **overrides: Any) -> EfficientDetConfig:
        """A copy with some fields changed.

        Lists become tuples, one image size becomes (size, size), `nms_configs` are merged, and so are
        `backbone_args` unless the backbone changes: arguments of one are not passed on to another. Another
        `norm_layer` gets its own defaults where `norm_kwargs` are not given.

        Raises:
            InputError: a field does not exist or has a value that makes no model.
        """
        known = {f.name for f in dataclasses.fields(self)}
        changes: dict[str, Any] = {}
        for key, value in overrides.items():
            if key not in known:
                raise unknown_name("config field", key, known)
            changes[key] = _normalised(key, value)
            if key == "nms_configs":
                changes[key] = {**self.nms_configs, **changes[key]}
        if changes.get("backbone_name", self.backbone_name) != self.backbone_name:
            changes.setdefault("backbone_args", {})
        elif "backbone_args" in changes:
            changes["backbone_args"] = {**self.backbone_args, **changes["backbone_args"]}
        if "norm_layer" in changes and "norm_kwargs" not in changes and changes["norm_layer"] != self.norm_layer:
            changes["norm_kwargs"] = {}
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (numbers, strings, lists, dicts) that `from_dict` and JSON take."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EfficientDetConfig:
        """The config that `to_dict` wrote.

        Raises:
            InputError: a field is unknown or missing, or makes no model.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise unknown_name("config field", key, known)
        missing = {"name", "backbone_name"} - set(values)
        if missing:
            raise InputError(f"config lacks {', '.join(sorted(missing))}; found {', '.join(sorted(values))}.")
        return cls(**{key: _normalised(key, value) for key, value in values.items()})


def parse_image_size(value: Any, order: str = "hw") -> tuple[int, int]:
    """(height, width) from an int, a pair, or text like "512" or "640x384".

    Args:
        value: the size; a pair is always (height, width).
        order: how text is read: "hw" as HEIGHTxWIDTH (this project), "wh" as WIDTHxHEIGHT (google/automl).

    Raises:
        InputError: the value is no size of at least 1 x 1.
    """
    parts: Sequence[Any]
    if isinstance(value, str):
        parts = value.lower().split("x")
        parts = parts[::-1] if order == "wh" else parts
    elif isinstance(value, Sequence):
        parts = value
    else:
        parts = [value]
    try:
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if isinstance(value, bool) or len(numbers) not in (1, 2) or min(numbers) < 1:
        form = "HEIGHTxWIDTH" if order == "hw" else "WIDTHxHEIGHT"
        raise InputError(
            f"image size: expected {form} or one number, found {value!r}; write e.g. 512 or 384x640."
        )
    return (numbers[0], numbers[-1])


def _normalised(key: str, value: Any) -> Any:
    if key == "image_size":
        return parse_image_size(value)
    if key == "aspect_ratios" and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(tuple(map(float, v)) if isinstance(v, Sequence) else float(v) for v in value)
    if isinstance(value, list):
        return tuple(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _validate(config: EfficientDetConfig) -> None:
    """Refuse what makes no model, naming field, expectation and value."""

    def check(good: bool, name: str, expected: str) -> None:
        if not good:
            raise InputError(f"{name}: expected {expected}, found {getattr(config, name)!r}.")

    for name in (
        "num_classes",
        "min_level",
        "num_scales",
        "box_class_repeats",
        "fpn_cell_repeats",
        "fpn_num_filters",
    ):
        value = getattr(config, name)
        check(
            isinstance(value, int) and not isinstance(value, bool) and value >= 1, name, "a whole number >= 1"
        )
    check(
        isinstance(config.max_level, int) and config.min_level <= config.max_level <= 12,
        "max_level",
        f"a whole number from min_level ({config.min_level}) to 12",
    )
    check(
        isinstance(config.aspect_ratios, tuple) and len(config.aspect_ratios) > 0, "aspect_ratios", "a list"
    )
    for ratio in config.aspect_ratios:
        good = (
            _is_number(ratio) and ratio > 0
            if not isinstance(ratio, tuple)
          
            else (len(ratio) == 2 and all(_is_number(r) and r > 0 for r in ratio))
        )
        check(good, "aspect_ratios", "positive numbers (width / height) or pairs (width, height)")
    scales = config.anchor_scale if isinstance(config.anchor_scale, tuple) else (config.anchor_scale,)
    check(
        all(_is_number(s) and s > 0 for s in scales) and len(scales) in (1, config.num_levels),
        "anchor_scale",
        f"one positive number, or one per level ({config.num_levels})",
    )
    for name in ("mean_rgb", "stddev_rgb"):
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        check(len(values) in (1, 3) and all(_is_number(v) for v in values), name, "one number or three")
    check(
        config.act_type in ACTIVATIONS or _is_timm_activation(config.act_type),
        "act_type",
        f"one of {', '.join(ACTIVATIONS)}, or an activation of timm",
    )
    check(
        config.fpn_weight_method in (None, *WEIGHT_METHODS),
        "fpn_weight_method",
        f"one of {', '.join(WEIGHT_METHODS)}",
    )
    check(config.pad_type in ("same", ""), "pad_type", '"same" or ""')
    config.fpn_graph()


def _is_timm_activation(name: str) -> bool:
    from timm.layers import get_act_layer

    try:
        return get_act_layer(name) is not None
    except (KeyError, AttributeError):
        return False
