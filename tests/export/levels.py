"""Made-up levels of a network: what selection and suppression find hard."""

from __future__ import annotations

import numpy as np

from effdet_model.config import EfficientDetConfig
from export.outputs import level_names

KINDS = ("scattered", "ties", "saturated", "weak", "one empty")


def made_up_levels(config: EfficientDetConfig, kind: str, count: int = 3) -> dict[str, np.ndarray]:
    """Levels [N, anchors * values, h, w] by name: many equal logits, scores of exactly 1, below every threshold, ..."""
    random = np.random.default_rng(0)
    sizes, shapes = config.feature_sizes(), config.anchors_per_location
    classes, boxes = level_names(config)
    levels = {}
    for name, box, level in zip(classes, boxes, config.levels, strict=True):
        logits = random.normal(-4, 2, (count, shapes * config.num_classes, *sizes[level]))
        if kind == "ties":
            logits = np.round(logits * 2) / 2
        elif kind == "saturated":
            logits[random.random(logits.shape) < 0.02] = 30
        elif kind == "weak":
            logits -= 16
        elif kind == "one empty":
            logits[1] = -30
        levels[name] = logits.astype(np.float32)
        levels[box] = random.normal(0, 0.6, (count, shapes * 4, *sizes[level])).astype(np.float32)
    return levels
