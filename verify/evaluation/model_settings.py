"""What every run makes of the options that name its model: the model itself, its suppression, its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effdet_model.devices import usable_device
from effdet_model.efficientdet import EfficientDet
from effdet_model.factory import create_model
from effdet_model.nms_profiles import NmsProfile, profile_from_config


@dataclass(frozen=True)
class ModelSettings:
    """A model on its device, in eval mode, and the suppression of its outputs."""

    model: EfficientDet
    profile: NmsProfile
    device: torch.device


def prepare_model(
    weights: str | Path,
    variant: str | None,
    *,
    device: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    nms: str | None = None,
    nms_configs: Mapping[str, Any] | None = None,
) -> ModelSettings:
    """Load a model for a run; the device is tried first, as that takes no time.

    Args:
        device: None: a GPU if there is one. image_size: (height, width), one number or text; None: the weights' own.
        overrides: config fields. nms, nms_configs: see `effdet_model.nms_profiles.profile_from_config`.

    Raises:
        InputError: the device does not work, the weights do not fit, or there is no such suppression.
    """
    usable = usable_device(device, "--device")
    model = create_model(variant, image_size=image_size, weights=weights, **dict(overrides or {}))
    profile = profile_from_config(model.config, nms, nms_configs)
    return ModelSettings(model.to(usable), profile, usable)
