"""The weight files that effdet's author released, which say nothing of themselves: what they were made for.

A file is known by the beginning of its SHA-256, whatever its name; the author's names end in these eight hex digits.
Source: the `url` entries of effdet's `model_config.py` in all its versions (2020-05-23 to 0.4.1) and the configuration
each stood in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from effdet_model.config import (
    ASPECT_RATIO_PAIRS,
    ASPECT_RATIOS,
    IMAGENET_MEAN_RGB,
    IMAGENET_STDDEV_RGB,
    EfficientDetConfig,
)
from effdet_model.variants import OFFICIAL_VARIANTS
from effdet_model.weights import file_sha256

_DIGITS = 8

_HASHES: Mapping[str, tuple[str, ...]] = {
    "d0": ("d92fd44f", "1851dfed", "f153e0cf"),
    "d1": ("4c7ebaf2", "a30f94af"),
    "d2": ("cb4ce77d", "8107aa99"),
    "d3": ("b0ea2cbc", "0b525f35"),
    "d4": ("5b370b7a", "f56376d9"),
    "d5": ("ef44aea8", "c79f9be6"),
    "d6": ("51cb0132", "4eda3773"),
    "d7": ("f05bf714", "6d1d7a95"),
    "d7x": ("f390b87c",),
    "d0_ap": ("d0cdbd0a",),
    "d1_ap": ("7721d075",),
    "d2_ap": ("a2995c19",),
    "d3_ap": ("e4a2feab",),
    "d4_ap": ("f601a5fc",),
    "d5_ap": ("3673ae5d",),
    "lite0": ("dfacfc78", "f5f303a9"),
    "lite1": ("6dc7ab30",),
    "lite2": ("86c5d55b",),
    "lite3": ("506852cb",),
    "lite3x": ("8404c57b",),
    "lite4": ("391ddabc",),
    "efficientdet_d0": ("f3276ba8",),
    "efficientdet_d1": ("bb7e98fe",),
    "efficientdet_q0": ("bdf1bdb5",),
    "efficientdet_q1": ("b238aba5", "d0612140"),
    "efficientdet_q2": ("0f7564e5",),
    "efficientdetv2_dt": ("17f4a380", "ad8b8c96"),
    "efficientdetv2_ds": ("cf589293",),
    "resdet50": ("08676892",),
    "cspresdet50": ("386da277",),
    "cspresdext50pan": ("92fdd094",),
    "cspdarkdet53m": ("79062b2d",),
}
_OF_THEIR_OWN: Mapping[str, Mapping[str, Any]] = {
    # Trained in PyTorch before the official lite models came out, with another architecture than theirs.
    "f5f303a9": {
        "backbone_name": "tf_efficientnet_lite0",
        "image_size": 512,
        "act_type": "relu",
        "fpn_weight_method": None,
        "redundant_bias": False,
        "anchor_scale": 4.0,
        "mean_rgb": IMAGENET_MEAN_RGB,
        "stddev_rgb": IMAGENET_STDDEV_RGB,
    },
    "b238aba5": {"downsample_type": "max", "upsample_type": "nearest"},
}


@dataclass(frozen=True)
class ReleasedWeights:
    """A released file. `overrides` are the config fields in which it differs from its variant here."""

    variant: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


def _released(variant: str, digits: str) -> ReleasedWeights:
    pairs = {"aspect_ratios": ASPECT_RATIO_PAIRS} if variant in OFFICIAL_VARIANTS else {}
    return ReleasedWeights(variant, {**pairs, **_OF_THEIR_OWN.get(digits, {})})


RELEASED: dict[str, ReleasedWeights] = {
    digits: _released(variant, digits) for variant, hashes in _HASHES.items() for digits in hashes
}
"""The first eight hex digits of the SHA-256 to what the file is."""


def released_weights(path: str | PurePath) -> ReleasedWeights | None:
    """What a file is whose content is that of a released one; None for any other.

    Raises:
        InputError: the file cannot be read.
    """
    return RELEASED.get(file_sha256(path)[:_DIGITS])


def named_as_released(path: str | PurePath) -> ReleasedWeights | None:
    """What the name alone says (tf_efficientdet_d0_34-f153e0cf.pth); the content may be another's."""
    match = re.search(rf"-([0-9a-f]{{{_DIGITS}}})\.(?:pth|pt|safetensors)$", PurePath(path).name)
    return RELEASED.get(match[1]) if match else None


def assumed_anchors(weights: str | PurePath, config: EfficientDetConfig) -> str:
    """What to tell of weights without metadata: the anchors that were assumed, and how to give others."""
    other = ASPECT_RATIO_PAIRS if config.aspect_ratios == ASPECT_RATIOS else ASPECT_RATIOS
    whose, why = f"those of {config.name}", "say nothing of their anchors"
    if named_as_released(weights):
        whose = "those of that file"
        why = "have the name of a file that effdet's author released and another content"
    return (
        f"weights {weights} {why}: assumed num_scales {config.num_scales}, aspect_ratios "
        f"{_listed(config.aspect_ratios)} and anchor_scale {_listed(config.anchor_scale)}, {whose}. If "
        f"they were trained with others, such as aspect_ratios {_listed(other)}, give them to create_model, or as "
        "--hparams FILE.yaml"
    )


def _listed(value: Any) -> str:
    return str([list(item) if isinstance(item, tuple) else item for item in value]) if isinstance(value, tuple) else (
        f"{value:g}"
    )
