"""What makes one EfficientDet differ from another: one frozen record with google/automl's field names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from effdet_model.config_fields import ACTIVATIONS as ACTIVATIONS
from effdet_model.config_fields import MAX_ANCHORS, MAX_CLASS_OUTPUTS, MAX_LEVEL, MAX_PARAMETERS, read_field
from effdet_model.config_fields import parse_image_size as parse_image_size
from effdet_model.errors import InputError, shown, unknown_name
from effdet_model.fpn_graph import FpnGraph, build_fpn_graph, feature_sizes
from effdet_model.labels import read_label_file
from effdet_model.nms_profiles import DEFAULT_NMS_CONFIGS

AspectRatio = float | tuple[float, float]

IMAGENET_MEAN_RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STDDEV_RGB = (0.229 * 255, 0.224 * 255, 0.225 * 255)

ASPECT_RATIOS = (1.0, 2.0, 0.5)
"""Anchor ratios (width / height) of the official code since 2020-09-10."""

ASPECT_RATIO_PAIRS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Anchor (width, height) factors of the official code until 2020-09-10."""


@dataclass(frozen=True)
class EfficientDetConfig:
    """One EfficientDet, its anchors and its preprocessing. Types and ranges of the fields: `config_fields.FIELDS`.

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
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, read_field(name, getattr(self, name)))
        _check_together(self)

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

        Lists become tuples, one image size becomes (size, size), a `label_map` file is read, `nms_configs` are merged,
        and so are `backbone_args` unless the backbone changes: arguments of one are not passed on to another. Another
        `norm_layer` gets its own defaults where `norm_kwargs` are not given.

        Raises:
            InputError: a field does not exist or has a value that makes no model.
        """
        changes: dict[str, Any] = {}
        for key, value in overrides.items():
            if key not in self.__dataclass_fields__:
                raise unknown_name("config field", key, self.__dataclass_fields__)
            changes[key] = read_field(key, read_label_file(value) if key == "label_map" else value)
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
    def from_dict(cls, values: Any, source: str = "config ") -> EfficientDetConfig:
        """The config that `to_dict` wrote. Nothing is read or fetched that the values may name.

        Args:
            source: what messages begin with, before the field's name.

        Raises:
            InputError: no mapping, a field is unknown or missing, or makes no model.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"{source.rstrip()}: expected config fields with their values, found {shown(values)}.")
        for key in values:
            if key not in cls.__dataclass_fields__:
                raise unknown_name(f"{source}field", key, cls.__dataclass_fields__)
        missing = {"name", "backbone_name"} - set(values)
        if missing:
            raise InputError(
                f"{source}lacks {', '.join(sorted(missing))}; found {shown(sorted(values))}; the metadata is damaged."
            )
        checked = {key: read_field(key, value, source) for key, value in values.items()}
        try:
            return cls(**checked)
        except InputError as error:
            raise InputError(f"{source}{error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _check_together(config: EfficientDetConfig) -> None:
    """Refuse fields that are sound alone and make no model together, or one beyond all bounds."""

    def check(good: bool, name: str, expected: str) -> None:
        if not good:
            raise InputError(f"{name}: expected {expected}, found {shown(getattr(config, name))}; correct it.")

    check(
        config.min_level <= config.max_level,
        "max_level",
        f"a whole number from min_level ({config.min_level}) to {MAX_LEVEL}",
    )
    scales = config.anchor_scale if isinstance(config.anchor_scale, tuple) else (config.anchor_scale,)
    check(
        len(scales) in (1, config.num_levels),
        "anchor_scale",
        f"one positive number, or one per level ({config.num_levels})",
    )
    channels = config.backbone_args.get("in_chans", 3)
    for name in ("mean_rgb", "stddev_rgb"):
        value = getattr(config, name)
        count = len(value) if isinstance(value, tuple) else 1
        check(count in (1, 3, channels), name, f"one number, or one for each of {channels} channels")
    outputs = config.anchors_per_location * config.num_classes
    check(
        outputs <= MAX_CLASS_OUTPUTS,
        "num_classes",
        f"at most {MAX_CLASS_OUTPUTS // config.anchors_per_location} with {config.anchors_per_location} anchors per "
        "location",
    )
    places = sum(height * width for height, width in config.feature_sizes()[config.min_level :])
    check(
        places * config.anchors_per_location <= MAX_ANCHORS,
        "image_size",
        f"a size with at most {MAX_ANCHORS} anchors ({config.anchors_per_location} per location from level "
        f"{config.min_level} on)",
    )
    parameters = _rough_parameters(config, len(config.fpn_graph().nodes), outputs)
    check(
        parameters <= MAX_PARAMETERS,
        "fpn_num_filters",
        f"a number that gives BiFPN and heads less than {MAX_PARAMETERS // 10**6} million parameters (about "
        f"{parameters // 10**6} million with fpn_cell_repeats {config.fpn_cell_repeats} and box_class_repeats "
        f"{config.box_class_repeats})",
    )


def _rough_parameters(config: EfficientDetConfig, nodes: int, class_outputs: int) -> int:
    """Weights of the convolutions of BiFPN and heads, without those that bring the backbone's features in."""
    filters = config.fpn_num_filters
    area = 1 if config.separable_conv else 9
    convolutions = config.fpn_cell_repeats * nodes + 2 * config.box_class_repeats
    return area * filters * (convolutions * filters + class_outputs)
