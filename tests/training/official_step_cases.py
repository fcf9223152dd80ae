"""The steps that tests/training/make_official_steps.py lets google/automl do, for it and for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.verify.diff_cases import SMALL, deterministic_value

VARIANTS = ("d0", "lite0")
IMAGE_SIZE = (128, 128)
STEPS = 5
_SAMPLES = 6


def small() -> dict[str, Any]:
    """What makes the models small."""
    return dict(SMALL)


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Every variable's first value."""
    return {name: deterministic_value(name, shape) for name, shape in shapes.items()}


def batches(num_classes: int) -> list[tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]]:
    """(images [N, H, W, 3], boxes [n, 4] and classes [n] of each image) of every step; the last image has no box."""
    random = np.random.RandomState(5)
    made = []
    for _ in range(STEPS):
        images = random.standard_normal((3, *IMAGE_SIZE, 3)).astype(np.float32)
        boxes, classes = [], []
        for count in (3, 1, 0):
            low = random.uniform(0, 60, (count, 2))
            boxes.append(np.concatenate([low, low + random.uniform(5, 64, (count, 2))], 1).astype(np.float32))
            classes.append(random.randint(1, num_classes + 1, count))
        made.append((images, boxes, classes))
    return made


def sampled(values: np.ndarray) -> np.ndarray:
    """A few values, evenly spread, and the root of the mean square."""
    flat = np.asarray(values).reshape(-1)
    places = np.linspace(0, flat.size - 1, _SAMPLES).astype(int)
    return np.append(flat[places], np.sqrt(np.mean(np.square(flat.astype(np.float64))))).astype(np.float32)
