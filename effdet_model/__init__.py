"""EfficientDet in PyTorch on timm backbones: config, model, anchors, preprocessing, postprocessing.

Names are loaded when they are first used: reading a config does not wait for torch and timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effdet_model.config import EfficientDetConfig
    from effdet_model.detector import Detections, Detector
    from effdet_model.efficientdet import EfficientDet
    from effdet_model.errors import InputError
    from effdet_model.factory import create_model
    from effdet_model.inference import inference_form
    from effdet_model.variants import get_config, list_variants

__all__ = [
    "Detections",
    "Detector",
    "EfficientDet",
    "EfficientDetConfig",
    "InputError",
    "create_model",
    "get_config",
    "inference_form",
    "list_variants",
]

_MODULES = {
    "Detections": "detector",
    "Detector": "detector",
    "EfficientDet": "efficientdet",
    "EfficientDetConfig": "config",
    "InputError": "errors",
    "create_model": "factory",
    "get_config": "variants",
    "inference_form": "inference",
    "list_variants": "variants",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"effdet_model.{_MODULES[name]}"), name)
