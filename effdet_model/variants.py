"""Every model by name: google/automl's official variants and the PyTorch models of effdet's author.

Official figures: google/automl `hparams_config.py` (6a54c87). The rest: effdet 0.4.1's model configs.
"""

from __future__ import annotations

import re
from typing import Any

from effdet_model.config import ASPECT_RATIO_PAIRS, ASPECT_RATIOS, EfficientDetConfig
from effdet_model.errors import unknown_name

# name: (backbone, image size, filters, FPN cells, head repeats)
_D = {
    "d0": ("b0", 512, 64, 3, 3),
    "d1": ("b1", 640, 88, 4, 3),
    "d2": ("b2", 768, 112, 5, 3),
    "d3": ("b3", 896, 160, 6, 4),
    "d4": ("b4", 1024, 224, 7, 4),
    "d5": ("b5", 1280, 288, 7, 4),
    "d6": ("b6", 1280, 384, 8, 5),
    "d7": ("b6", 1536, 384, 8, 5),
    "d7x": ("b7", 1536, 384, 8, 5),
}
_D_EXTRAS: dict[str, dict[str, Any]] = {
    "d6": {"fpn_weight_method": "sum"},
    "d7": {"fpn_weight_method": "sum", "anchor_scale": 5.0},
    "d7x": {"fpn_weight_method": "sum", "max_level": 8},
}
_LITE = {
    "lite0": ("lite0", 320, 64, 3, 3),
    "lite1": ("lite1", 384, 88, 4, 3),
    "lite2": ("lite2", 448, 112, 5, 3),
    "lite3": ("lite3", 512, 160, 6, 4),
    "lite3x": ("lite3", 640, 200, 6, 4),
    "lite4": ("lite4", 640, 224, 7, 4),
}
_LITE_COMMON: dict[str, Any] = {
    "mean_rgb": 127.0,
    "stddev_rgb": 128.0,
    "act_type": "relu6",
    "fpn_weight_method": "sum",
}
_LITE_ANCHOR_SCALE_3 = ("lite0", "lite1", "lite2", "lite3x")
_ADVPROP: dict[str, Any] = {"mean_rgb": 0.0, "stddev_rgb": 1.0, "scale_range": True}
"""google/automl Det-AdvProp.md: pixels scaled to [-1, 1] instead of mean and deviation."""


def _sizes(row: tuple[str, int, int, int, int]) -> dict[str, Any]:
    backbone, size, filters, cells, repeats = row
    return {
        "backbone_name": f"efficientnet-{backbone}",
        "image_size": (size, size),
        "fpn_num_filters": filters,
        "fpn_cell_repeats": cells,
        "box_class_repeats": repeats,
        "backbone_args": {"drop_path_rate": 0.2},
    }


def _official() -> dict[str, dict[str, Any]]:
    table = {name: {**_sizes(row), **_D_EXTRAS.get(name, {})} for name, row in _D.items()}
    for name, row in _LITE.items():
        scale = 3.0 if name in _LITE_ANCHOR_SCALE_3 else 4.0
        table[name] = {**_sizes(row), **_LITE_COMMON, "anchor_scale": scale}
    for name in ("d0", "d1", "d2", "d3", "d4", "d5"):
        table[f"{name}_ap"] = {**table[name], **_ADVPROP}
    for name in ("d2", "d3", "d4", "d5", "d6"):
        # Released once, in July 2020, when the official code had the pairs.
        table[f"{name}_640"] = {**table[name], "image_size": (640, 640), "aspect_ratios": ASPECT_RATIO_PAIRS}
    return table


def _pytorch(
    backbone: str,
    size: int,
    filters: int,
    cells: int,
    repeats: int,
    drop_path: float,
    **more: Any,
) -> dict[str, Any]:
    fields = {
        "backbone_name": backbone,
        "image_size": (size, size),
        "fpn_num_filters": filters,
        "fpn_cell_repeats": cells,
        "box_class_repeats": repeats,
        "aspect_ratios": ASPECT_RATIO_PAIRS,
        "pad_type": "",
        "redundant_bias": False,
        "backbone_args": {"drop_path_rate": drop_path},
    }
    return {**fields, **more}


_RATIOS: dict[str, Any] = {"aspect_ratios": ASPECT_RATIOS, "head_bn_level_first": True}
_BILINEAR: dict[str, Any] = {"downsample_type": "bilinear", "upsample_type": "bilinear"}
_SAME_PADDED: dict[str, Any] = {"pad_type": "same", "redundant_bias": True}
_CSP: dict[str, Any] = {**_RATIOS, "separable_conv": False, "act_type": "leaky_relu"}
_FROM_3 = {"backbone_indices": (3, 4, 5)}
_QUFPN = {"fpn_name": "qufpn_fa", "head_bn_level_first": True}

_PYTORCH: dict[str, dict[str, Any]] = {
    "efficientdet_d0": _pytorch("efficientnet_b0", 512, 64, 3, 3, 0.1),
    "efficientdet_d1": _pytorch("efficientnet_b1", 640, 88, 4, 3, 0.2),
    "efficientdet_d2": _pytorch("efficientnet_b2", 768, 112, 5, 3, 0.2),
    "efficientdet_d3": _pytorch("efficientnet_b3", 896, 160, 6, 4, 0.2),
    "efficientdet_d4": _pytorch("efficientnet_b4", 1024, 224, 7, 4, 0.2, **_SAME_PADDED),
    "efficientdet_d5": _pytorch("efficientnet_b5", 1280, 288, 7, 4, 0.2, **_SAME_PADDED),
    "efficientdetv2_dt": _pytorch("efficientnetv2_rw_t", 768, 128, 5, 3, 0.2, **_RATIOS, **_BILINEAR),
    "efficientdetv2_ds": _pytorch("efficientnetv2_rw_s", 1024, 256, 7, 4, 0.2, **_RATIOS, **_BILINEAR),
    "resdet50": _pytorch("resnet50", 640, 88, 4, 3, 0.2, act_type="relu", separable_conv=False),
    "cspresdet50": _pytorch("cspresnet50", 768, 88, 4, 3, 0.2, head_act_type="silu", **_CSP, **_BILINEAR),
    "cspresdext50": _pytorch("cspresnext50", 640, 88, 4, 3, 0.2, **_CSP),
    "cspresdext50pan": _pytorch("cspresnext50", 640, 88, 3, 3, 0.2, fpn_name="pan_fa", **_CSP),
    "cspdarkdet53": _pytorch("cspdarknet53", 640, 88, 4, 3, 0.2, **_CSP, **_FROM_3),
    "cspdarkdet53m": _pytorch(
        "cspdarknet53",
        768,
        96,
        4,
        3,
        0.2,
        fpn_name="qufpn_fa",
        head_act_type="mish",
        **_CSP,
        **_BILINEAR,
        **_FROM_3,
    ),
    "mixdet_m": _pytorch("mixnet_m", 512, 64, 3, 3, 0.1, **_RATIOS),
    "mixdet_l": _pytorch("mixnet_l", 640, 88, 4, 3, 0.2, **_RATIOS),
    "mobiledetv2_110d": _pytorch("mobilenetv2_110d", 384, 48, 3, 3, 0.05, act_type="relu6", **_RATIOS),
    "mobiledetv2_120d": _pytorch("mobilenetv2_120d", 512, 56, 3, 3, 0.1, act_type="relu6", **_RATIOS),
    "mobiledetv3_large": _pytorch("mobilenetv3_large_100", 512, 64, 3, 3, 0.1, act_type="hswish", **_RATIOS),
    "efficientdet_q0": _pytorch("efficientnet_b0", 512, 64, 3, 3, 0.1, **_QUFPN),
    "efficientdet_q1": _pytorch("efficientnet_b1", 640, 88, 3, 3, 0.2, **_QUFPN, **_BILINEAR),
    "efficientdet_q2": _pytorch("efficientnet_b2", 768, 112, 4, 3, 0.2, **_QUFPN),
    "efficientdet_w0": _pytorch(
        "efficientnet_b0",
        512,
        80,
        3,
        3,
        0.1,
        **_RATIOS,
    )
    | {"backbone_args": {"drop_path_rate": 0.1, "feature_location": "depthwise"}},
    "efficientdet_es": _pytorch(
        "efficientnet_es", 512, 72, 3, 3, 0.1, act_type="relu", separable_conv=False, **_RATIOS
    ),
    "efficientdet_em": _pytorch(
        "efficientnet_em", 640, 96, 4, 3, 0.2, act_type="relu", separable_conv=False, **_RATIOS
    ),
    "efficientdet_lite0": _pytorch(
        "efficientnet_lite0", 384, 64, 3, 3, 0.1, act_type="relu6", pad_type="same", head_bn_level_first=True
    ),
}

_OFFICIAL = _official()

OFFICIAL_VARIANTS: tuple[str, ...] = tuple(_OFFICIAL)
"""d0 .. d7x, lite0 .. lite4, d0_ap .. d5_ap, d2_640 .. d6_640: the variants with TensorFlow checkpoints."""

PYTORCH_MODELS: tuple[str, ...] = tuple(_PYTORCH)
"""Models that exist in PyTorch only: efficientdet_d0 (symmetric padding, no redundant bias) and experiments."""


def list_variants(official_only: bool = False) -> list[str]:
    """All names that `create_model` takes, official variants first."""
    return [*OFFICIAL_VARIANTS, *([] if official_only else PYTORCH_MODELS)]


def canonical_variant(name: str) -> str:
    """The name this project uses: d0 for d0, tf_efficientdet_d0 and efficientdet-d0.

    Raises:
        InputError: no such variant; the message lists the nearest names and all.
    """
    if not isinstance(name, str):
        raise unknown_name("variant", name, list_variants())
    text = name.strip().lower()
    if text in _PYTORCH:
        return text
    bare = re.sub(r"^(tf_efficientdet_|efficientdet-)", "", text).replace("-", "_")
    if bare in _OFFICIAL:
        return bare
    raise unknown_name("variant", name, list_variants())


def get_config(variant: str, **overrides: Any) -> EfficientDetConfig:
    """The config of a variant, with some fields replaced.

    Raises:
        InputError: unknown variant or field, or values that make no model.
    """
    name = canonical_variant(variant)
    fields = _OFFICIAL.get(name) or _PYTORCH[name]
    return EfficientDetConfig(name=name, **fields).replace(**overrides)
