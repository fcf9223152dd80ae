"""What every field of a config may hold: one table of types and ranges, for whoever sets them.

Keyword arguments, `--hparams` and the metadata of weight files are read by the same entries. The bounds are far beyond
any model that was trained, and small enough that nothing which a file names can exhaust time or memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from effdet_model.errors import InputError, nearest, shown
from effdet_model.field_types import (
    FieldType,
    Items,
    Keys,
    Named,
    Nullable,
    Plain,
    as_number,
    as_whole,
    flag,
    identifier,
    is_list,
    number,
    one_of,
    one_or_list,
    positive,
    whole,
    wrong_value,
)
from effdet_model.fpn_graph import FPN_NAMES, WEIGHT_METHODS
from effdet_model.labels import LabelMap
from effdet_model.nms_profiles import METHODS

MAX_CLASSES = 10_000
MAX_LEVEL = 12
MAX_SIDE = 8192
"""Pixels."""
MAX_SCALES = 16
MAX_RATIOS = 32
MAX_REPEATS = 32
"""Of FPN cells, and of the heads' convolutions; d7x has 8 and 5."""
MAX_FILTERS = 4096
MAX_NODES = 200
MAX_INPUT_CHANNELS = 64
MAX_ANCHORS = 50_000_000
"""Of one image."""
MAX_PARAMETERS = 1_000_000_000
"""Of BiFPN and heads; d7x has 15 million there."""
MAX_CLASS_OUTPUTS = 1_000_000
"""Channels of the class prediction: anchors per location x classes."""

ACTIVATIONS = ("silu", "swish", "swish_native", "hswish", "relu", "relu6", "mish", "leaky_relu")
OFFICIAL_BACKBONES = (
    *(f"efficientnet-b{number}" for number in range(9)),
    "efficientnet-l2",
    *(f"efficientnet-lite{number}" for number in range(5)),
)


def parse_image_size(value: Any, order: str = "hw", where: str = "image size") -> tuple[int, int]:
    """(height, width) from an int, a pair, or text like "512" or "640x384".

    Args:
        value: the size; a pair is always (height, width).
        order: how text is read: "hw" as HEIGHTxWIDTH (this project), "wh" as WIDTHxHEIGHT (google/automl).
        where: what the message begins with.

    Raises:
        InputError: the value is no size of 1 to MAX_SIDE pixels a side.
    """
    parts: Any = value if is_list(value) else [value]
    if isinstance(value, str):
        matched = re.fullmatch(r"\s*([0-9]{1,6})(?:\s*[xX]\s*([0-9]{1,6}))?\s*", value)
        parts = [int(part) for part in matched.groups() if part] if matched else []
        parts = parts[::-1] if order == "wh" else parts
    try:
        if len(parts) not in (1, 2):
            raise ValueError
        numbers = [as_whole(part, 1, MAX_SIDE) for part in parts]
    except (TypeError, ValueError):
        form = "HEIGHTxWIDTH" if order == "hw" else "WIDTHxHEIGHT"
        raise InputError(
            f"{where}: expected {form} or one number, found {shown(value)}; write e.g. 512 or 384x640, with whole "
            f"numbers from 1 to {MAX_SIDE}."
        ) from None
    return (numbers[0], numbers[-1])


class _ImageSize:
    expected = "an image size"

    def read(self, value: Any, where: str) -> tuple[int, int]:
        return parse_image_size(value, where=where)


def _ratio(value: Any) -> Any:
    if not is_list(value):
        return float(as_number(value, 1e-3, 1e3))
    if len(value) != 2:
        raise ValueError
    return tuple(float(as_number(factor, 1e-3, 1e3)) for factor in value)


def _activation(value: Any) -> str:
    if value in ACTIVATIONS:
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9_]{1,40}", value) or value == "identity":
        raise ValueError
    from timm.layers import get_act_layer

    try:
        known = get_act_layer(value) is not None
    except (KeyError, AttributeError):
        known = False
    if not known:
        raise ValueError
    return value


def _backbone_name(value: Any) -> str:
    # No "hf-hub:", "local-dir:" or path: such names would make timm fetch and load what the name points at.
    if not isinstance(value, str) or len(value) > 100 or not re.fullmatch(r"[\w-]+(\.[\w-]+)?", value, re.ASCII):
        raise ValueError
    return value


_RATIOS = one_or_list(
    Plain("", _ratio), MAX_RATIOS, f"positive numbers (width / height) or pairs (width, height), 1 to {MAX_RATIOS}"
)


def _ratios(value: Any) -> Any:
    if not is_list(value):
        raise TypeError
    return _RATIOS.convert(value)


_CHANNEL_VALUES = "one number, or one per channel (three for RGB)"

NMS_CONFIGS = Keys(
    {
        "method": Nullable(one_of(METHODS["numpy"])),
        "iou_thresh": Nullable(number(0, 1)),
        "score_thresh": Nullable(number(0, 1)),
        "sigma": Nullable(number(0, 100)),
        "pyfunc": Nullable(flag),
        "max_nms_inputs": Nullable(whole(0, 10_000_000)),
        "max_output_size": Nullable(whole(0, 1_000_000)),
    }
)
"""Keys of google/automl's `nms_configs`; null and 0 mean the method's own value, as there."""

FPN_CONFIG = Keys(
    {
        "nodes": Items(
            Keys(
                {
                    "feat_level": whole(0, MAX_LEVEL),
                    "inputs_offsets": Items(whole(0, MAX_NODES + MAX_LEVEL), 64),
                    "weight_method": Nullable(one_of(WEIGHT_METHODS)),
                }
            ),
            MAX_NODES,
        ),
        "weight_method": Nullable(one_of(WEIGHT_METHODS)),
        "quad_method": Nullable(one_of(WEIGHT_METHODS)),
    }
)

NORM_KWARGS = Keys(
    {
        "eps": positive(1),
        "momentum": Nullable(number(0, 1)),
        "affine": flag,
        "track_running_stats": flag,
        "num_groups": whole(1, MAX_FILTERS),
        "group_size": Nullable(whole(1, MAX_FILTERS)),
    }
)

_RATE = number(0, 1)
_LAYER = Nullable(identifier("the name of a layer of timm", 40))
_SIZES = one_or_list(whole(1, MAX_SIDE), 2, "a whole number, or two")
BACKBONE_ARGS = Keys(
    {
        "act_layer": _LAYER,
        "aa_layer": _LAYER,
        "norm_layer": _LAYER,
        "feature_location": one_of(("bottleneck", "expansion", "depthwise", "")),
        "pad_type": one_of(("same", "")),
        "in_chans": whole(1, MAX_INPUT_CHANNELS),
        "output_stride": whole(1, 64),
        "bn_eps": positive(1),
        "bn_momentum": number(0, 1),
        "norm_eps": positive(1),
        "drop_rate": _RATE,
        "drop_path_rate": _RATE,
        "drop_block_rate": _RATE,
        "proj_drop_rate": _RATE,
        "attn_drop_rate": _RATE,
        "pos_drop_rate": _RATE,
        "img_size": _SIZES,
        "patch_size": _SIZES,
        "window_size": _SIZES,
        "strict_img_size": flag,
        "dynamic_img_size": flag,
        "always_partition": flag,
        "block_reduce_first": whole(1, 16),
        "cardinality": whole(1, 1024),
        "base_width": whole(1, 1024),
        "stem_width": whole(1, 1024),
        "stem_type": identifier("the name of a stem of timm", 40),
        "avg_down": flag,
        "replace_stem_pool": flag,
        "zero_init_last": flag,
    }
)
"""The arguments of timm's backbones that a config may set: plain data, nothing that names a file or an address."""

FIELDS: Mapping[str, FieldType] = {
    "name": identifier("a name of letters, digits, '_', '-' and '.'", pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*"),
    "backbone_name": Plain("the name of a model of timm or google/automl (efficientnet-b0)", _backbone_name),
    "image_size": _ImageSize(),
    "num_classes": whole(1, MAX_CLASSES),
    "act_type": Plain(f"one of {', '.join(ACTIVATIONS)}, or an activation of timm", _activation),
    "min_level": whole(1, MAX_LEVEL),
    "max_level": whole(1, MAX_LEVEL),
    "num_scales": whole(1, MAX_SCALES),
    "aspect_ratios": Plain(_RATIOS.expected, _ratios),
    "anchor_scale": one_or_list(positive(1000), MAX_LEVEL, "one positive number, or one per level"),
    "mean_rgb": one_or_list(number(-1e6, 1e6), MAX_INPUT_CHANNELS, _CHANNEL_VALUES),
    "stddev_rgb": one_or_list(positive(1e6), MAX_INPUT_CHANNELS, f"{_CHANNEL_VALUES}, above 0"),
    "scale_range": flag,
    "box_class_repeats": whole(1, MAX_REPEATS),
    "fpn_cell_repeats": whole(1, MAX_REPEATS),
    "fpn_num_filters": whole(1, MAX_FILTERS),
    "separable_conv": flag,
    "apply_bn_for_resampling": flag,
    "conv_after_downsample": flag,
    "conv_bn_act_pattern": flag,
    "fpn_name": Nullable(Named(FPN_NAMES)),
    "fpn_weight_method": Nullable(one_of(WEIGHT_METHODS)),
    "fpn_config": Nullable(FPN_CONFIG),
    "survival_prob": Nullable(number(0, 1)),
    "label_map": Nullable(LabelMap()),
    "nms_configs": NMS_CONFIGS,
    "pad_type": one_of(("same", "")),
    "redundant_bias": flag,
    "norm_layer": identifier("the name of a normalisation layer of timm", 40),
    "norm_kwargs": NORM_KWARGS,
    "head_act_type": Nullable(Plain(f"one of {', '.join(ACTIVATIONS)}, or an activation of timm", _activation)),
    "head_bn_level_first": flag,
    "downsample_type": one_of(("max", "avg", "bilinear", "bicubic", "nearest")),
    "upsample_type": one_of(("nearest", "bilinear", "bicubic")),
    "backbone_args": BACKBONE_ARGS,
    "backbone_indices": Nullable(Items(whole(0, 64), MAX_LEVEL)),
}
"""The type and range of every field of `EfficientDetConfig`."""


def read_field(name: str, value: Any, source: str = "") -> Any:
    """The value of a config field as the config holds it (lists become tuples, an image size a pair).

    Args:
        source: what the message puts before the field's name, e.g. "--hparams ".

    Raises:
        InputError: a wrong type, a value out of range, or an unknown nested key.
    """
    read: Any = FIELDS[name].read(value, f"{source}{name}")
    if name == "backbone_name":
        _refuse_unknown_backbone(read, f"{source}{name}")
    return read


def _refuse_unknown_backbone(value: str, where: str) -> None:
    """A misspelt name is told here, before anything is read or made with it."""
    if value in OFFICIAL_BACKBONES:
        return
    import timm

    known: tuple[str, ...] = (*OFFICIAL_BACKBONES, *timm.list_models())
    if not value.startswith("efficientnet-") and timm.is_model(value):
        try:
            timm.get_pretrained_cfg(value)
            return
        except RuntimeError:  # the model is known, the tag behind the dot is not
            known = tuple(timm.list_models(f"{value.partition('.')[0]}.*", pretrained=True))
    close = ", ".join(nearest(value, known)) or "efficientnet-b0, resnet50"
    raise wrong_value(where, f"a model of timm {timm.__version__} or google/automl such as {close}", value)
