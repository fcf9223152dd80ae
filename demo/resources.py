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
ARCHIVE = f"efficientdet-{VARIANT}.tar.gz"
NMS = {"numpy_gaussian": "numpy.gaussian", "graph_gaussian": "per_class.gaussian", "graph_hard": "per_class.hard"}
"""Suppression profile -> name of the official results made with it."""
DATA = Path(str(files("demo") / "data"))
"""Holds ARCHIVE, `images`, `instances.json` and `official`."""


def official_metrics(profile: str) -> dict[str, float]:
    """The 12 COCO metrics of google/automl's code for a suppression profile, by name, in [0, 1]; -1: nothing there."""
    return json.loads((DATA / "official" / "metrics.json").read_text(encoding="utf-8"))[NMS[profile]]


def official_detections(profile: str) -> list[dict[str, Any]]:
    """All its detections, in COCO's results format: [x, y, width, height] in pixels of the original."""
    return json.loads((DATA / "official" / f"{NMS[profile]}.json").read_text(encoding="utf-8"))
