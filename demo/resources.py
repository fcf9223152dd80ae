"""What the demo ships: a trained checkpoint, pictures, annotations, and what google/automl's code makes of them."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

VARIANT = "d0"
IMAGE_SIZE = (128, 128)
"""That of the training: (height, width)."""
ASPECT_RATIOS = (1.0, 2.0, 0.5)
"""Of the anchors it was trained with."""
NMS = {"numpy_gaussian": "numpy.gaussian", "graph_gaussian": "per_class.gaussian", "graph_hard": "per_class.hard"}
"""Suppression profile -> name of the official results made with it."""

DATA = Path(str(files("demo"))) / "data"
ARCHIVE = DATA / f"efficientdet-{VARIANT}.tar.gz"
"""Moving averages of a training at 128 x 128, rounded to bfloat16, under their names in a TensorFlow 1 checkpoint."""
IMAGES = DATA / "images"
ANNOTATIONS = DATA / "instances.json"
"""In COCO's layout; the categories are shapes with ids of COCO's."""
OFFICIAL = DATA / "official"
"""What google/automl's code makes of the checkpoint and the pictures: metrics.json, and COCO results per mode."""


def category_names() -> dict[int, str]:
    """Category id to name."""
    return {item["id"]: item["name"] for item in _read(ANNOTATIONS)["categories"]}


def official_metrics(profile: str) -> dict[str, float]:
    """The 12 COCO metrics of google/automl's code for a suppression profile, by name, in [0, 1]; -1: nothing there."""
    return _read(OFFICIAL / "metrics.json")[NMS[profile]]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
