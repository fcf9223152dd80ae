"""The cases of official_training.npz: what google/automl's own training code was given, made anew from numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

PAIRS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))

MODELS: dict[str, dict[str, Any]] = {
    "d0": {"image_size": (128, 128), "num_classes": 90},
    "wide": {"image_size": (96, 160), "num_classes": 7, "aspect_ratios": PAIRS},
    "odd": {"image_size": (100, 75), "num_classes": 7, "anchor_scale": 3.0},
    "levels": {
        "image_size": (128, 64), "num_classes": 7, "max_level": 8, "anchor_scale": (2.0, 3.0, 4.0, 4.0, 5.0, 6.0),
    },
    "small": {"image_size": (64, 64), "num_classes": 3},
}
"""Overrides of d0's config."""


class Truth(NamedTuple):
    """One picture's truth: boxes float32 [n, 4] (y0, x0, y1, x1) in pixels, classes int [n] from 1."""

    boxes: np.ndarray
    classes: np.ndarray


def random_truth(seed: int, count: int, height: int, width: int, classes: int, margin: float = 0.0) -> Truth:
    """Boxes of all sizes; some reach `margin` pixels beyond the picture."""
    random = np.random.RandomState(seed)
    size = np.array([height, width], np.float64) + 2 * margin
    center = random.uniform(0, 1, (count, 2)) * size - margin
    half = np.exp(random.uniform(np.log(2), np.log(size.min() / 1.5), (count, 2))) / 2
    boxes = np.concatenate([center - half, center + half], 1).astype(np.float32)
    if not margin:
        boxes = np.clip(boxes, 0, [height, width, height, width]).astype(np.float32)
    return Truth(boxes, random.randint(1, classes + 1, count))


def truths() -> dict[str, tuple[str, Truth]]:
    """Name to (model, truth) of every target case."""

    def listed(rows: list[list[float]], classes: list[int]) -> Truth:
        return Truth(np.array(rows, np.float32).reshape(-1, 4), np.array(classes, np.int64))

    return {
        "none": ("d0", listed([], [])),
        "one": ("d0", listed([[20, 30, 70, 90]], [18])),
        "many": ("d0", random_truth(1, 150, 128, 128, 90)),
        "outside": ("wide", random_truth(2, 40, 96, 160, 7, margin=40.0)),
        "odd": ("odd", random_truth(3, 12, 100, 75, 7)),
        "levels": ("levels", random_truth(4, 25, 128, 64, 7)),
        "tiny": ("d0", listed([[3, 3, 4, 4], [60.2, 60.1, 60.9, 60.3], [127.5, 127.5, 128, 128]], [1, 2, 3])),
        "two tiny in one place": ("d0", listed([[50, 50, 52, 52], [50, 50, 52, 52.5], [50, 50, 52, 52]], [5, 6, 7])),
        "equal": ("d0", listed([[10, 10, 60, 60]] * 3, [9, 8, 7])),
        "between anchors": ("d0", listed([[32, 32, 96, 96], [0, 0, 64, 64], [16, 48, 80, 112]], [1, 2, 3])),
        "an anchor's own": ("d0", listed([[-12, -12, 20, 20], [16, 16, 48, 48]], [1, 2])),
        "empty boxes": ("d0", listed([[40, 40, 40, 80], [70, 70, 70, 70], [20, 30, 70, 90]], [1, 2, 3])),
        "far away": ("d0", listed([[1000, 1000, 1100, 1100], [900, 900, 950, 990]], [4, 5])),
        "ignored": ("d0", listed([[20, 30, 70, 90], [60, 10, 120, 70]], [18, -1])),
    }


LOSSES: dict[str, dict[str, Any]] = {
    "default": {},
    "smoothing": {"label_smoothing": 0.1},
    "focal": {"alpha": 0.4, "gamma": 2.0, "delta": 0.5, "box_loss_weight": 10.0},
    "classes alone": {"box_loss_weight": 0.0},
    "iou": {"iou_loss_type": "iou"},
    "giou": {"iou_loss_type": "giou"},
    "diou": {"iou_loss_type": "diou", "iou_loss_weight": 2.0},
    "ciou": {"iou_loss_type": "ciou"},
    "ciou alone": {"iou_loss_type": "ciou", "box_loss_weight": 0.0, "label_smoothing": 0.05},
}
"""Settings of the loss; all on two pictures of model "small"."""

GRADIENT_STEP = 7
"""Every which value of a gradient is kept."""


def loss_truths() -> list[Truth]:
    """Two pictures; one box is ignored, one lies exactly on an anchor."""
    first, second = random_truth(11, 9, 64, 64, 3), random_truth(12, 3, 64, 64, 3)
    first.classes[4] = -1
    second.boxes[0] = [-4, -4, 28, 28]
    return [first, second]


def head_outputs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Class and box outputs float32 NHWC of model "small" for two pictures, finest level first."""
    random = np.random.RandomState(21)
    class_outputs, box_outputs = [], []
    for side in (8, 4, 2, 1, 1):
        class_outputs.append((random.standard_normal((2, side, side, 27)) * 3 - 1).astype(np.float32))
        box_outputs.append((random.standard_normal((2, side, side, 36)) * 0.3).astype(np.float32))
    class_outputs[0][0, 0, 0, :4] = [80.0, -80.0, 30.0, -30.0]
    box_outputs[0][1, 2, 2] = 0.0
    return class_outputs, box_outputs


MOMENTUM, POSITIVES = 0.7, (12.0, 3.0, 40.0, 40.0)
"""positives_momentum and the positives of four batches."""

SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {},
    "stepwise": {"method": "stepwise"},
    "polynomial": {"method": "polynomial"},
    "constant": {"method": "constant"},
    "small batch": {"batch_size": 6, "epochs": 7, "examples": 1001},
    "large batch": {"batch_size": 256, "epochs": 50, "examples": 118287, "method": "stepwise"},
    "power": {"batch_size": 8, "epochs": 20, "examples": 500, "method": "polynomial", "poly_lr_power": 2.0},
    "warm-up": {"batch_size": 32, "lr_warmup_epoch": 2.5, "lr_warmup_init": 0.001, "learning_rate": 0.02},
    "no warm-up": {"batch_size": 32, "lr_warmup_epoch": 0.0},
    "drops": {"method": "stepwise", "epochs": 10, "first_lr_drop_epoch": 4.0, "second_lr_drop_epoch": 7.5},
}


def schedule_steps(batch_size: int = 64, epochs: int = 300, examples: int = 120000, **others: Any) -> list[int]:
    """Steps from 0 on past the end of training, denser where warm-up ends."""
    epoch = examples / batch_size
    return sorted({int(epoch * place) for place in (0, 0.001, 0.01, 0.3, 0.99, 1, 1.01, 2, 2.49, 2.51)} | {
        min(int(epoch * epochs * part / 40), int(epoch * epochs) - 1) for part in range(41)
    } | {int(epoch) + 1, int(epoch) - 1, 1})
