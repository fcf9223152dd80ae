"""Names of what an exported file takes and gives."""

from __future__ import annotations

from effdet_model.config import EfficientDetConfig

INPUT = "images"
NUM_DETECTIONS, BOXES, SCORES, CLASSES = DETECTION_OUTPUTS = (
    "num_detections", "detection_boxes", "detection_scores", "detection_classes"
)  # fmt: skip
"""int [N]; float32 [N, K, 4], x0, y0, x1, y1 in pixels of the model's input; float32 [N, K], best first; int [N, K],
category ids (class index + 1). Rows behind the last detection are zeros."""


def level_names(config: EfficientDetConfig) -> tuple[list[str], list[str]]:
    """Names of the network's outputs, class and box, finest level first: class_3, ..., box_3, ..."""
    return [f"class_{level}" for level in config.levels], [f"box_{level}" for level in config.levels]
