"""What google/automl's own code detected on the demo's pictures."""

from __future__ import annotations

import json
from typing import Any

from demo.resources import NMS, OFFICIAL


def official_detections(profile: str) -> list[dict[str, Any]]:
    """All of them, in COCO's results format: [x, y, width, height] in pixels of the original."""
    return json.loads((OFFICIAL / f"{NMS[profile]}.json").read_text(encoding="utf-8"))
