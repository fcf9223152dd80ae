"""Training: targets, losses, schedules and recipes of google/automl and of effdet.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.losses import MovingNormalizer, detection_loss
    from training.schedules import epoch_learning_rates, learning_rate
    from training.targets import AnchorLabeler, Targets

__all__ = [
    "AnchorLabeler",
    "MovingNormalizer",
    "Targets",
    "detection_loss",
    "epoch_learning_rates",
    "learning_rate",
]

_MODULES = {
    "AnchorLabeler": "targets",
    "MovingNormalizer": "losses",
    "Targets": "targets",
    "detection_loss": "losses",
    "epoch_learning_rates": "schedules",
    "learning_rate": "schedules",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"training.{_MODULES[name]}"), name)
