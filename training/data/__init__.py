"""Data of training: datasets of four formats, batches, and what is wrong with them.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.data.dataset import DetectionDataset, Example
    from training.data.loading import Batch, TrainingLoader
    from training.data.source import DataSource, open_dataset

_MODULES = {
    "Batch": "loading",
    "DataSource": "source",
    "DetectionDataset": "dataset",
    "Example": "dataset",
    "TrainingLoader": "loading",
    "open_dataset": "source",
}

__all__ = ["Batch", "DataSource", "DetectionDataset", "Example", "TrainingLoader", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"training.data.{_MODULES[name]}"), name)
