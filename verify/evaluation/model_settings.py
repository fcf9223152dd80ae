"""What a run makes of the names that its options give: a device, a suppression profile for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from effdet_model.config import DEFAULT_NMS_CONFIGS, EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.nms_profiles import DEFAULT_PROFILE, NmsProfile, resolve_profile


def usable_device(name: str | None = None) -> torch.device:
    """The device of that name, tried out; without a name a GPU where there is one, else the CPU.

    Raises:
        InputError: the device does not work here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: expected a device that works here, found {name!r}: {reason}") from error
    return device


def profile_for(
    config: EfficientDetConfig, name: str | None = None, nms_configs: Mapping[str, Any] | None = None
) -> NmsProfile:
    """A named suppression profile with the thresholds and sizes that the model's config sets away from the defaults.

    Args:
        name: None: numpy_gaussian. nms_configs: what replaces both, names as in google/automl.

    Raises:
        InputError: there is no such profile, or a threshold does not fit it.
    """
    changed = {
        key: value
        for key, value in config.nms_configs.items()
        if value != DEFAULT_NMS_CONFIGS.get(key) and key not in ("method", "pyfunc")
    }
    return resolve_profile(name or DEFAULT_PROFILE, {**changed, **(nms_configs or {})})
