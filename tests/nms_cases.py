"""Random candidates with everything that makes suppression hard: ties, empty classes, degenerate boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Case = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]


def nms_case(seed: int, degenerate: bool = True) -> Case:
    """(boxes_yxyx [K, 4], scores [K], classes [K]); the seed decides the kind of trouble."""
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 200)) if degenerate else int(random.integers(50, 200))
    classes = random.integers(0, int(random.choice([1, 2, 5, 90])), count)
    boxes = _boxes(random, count, on_grid=seed % 3 == 0).astype(np.float32)
    if degenerate and count:
        _spoil(random, boxes, seed)
    return boxes, _scores(random, count, seed % 5 if degenerate else 0), classes.astype(np.int64)


def _boxes(random: np.random.Generator, count: int, on_grid: bool) -> npt.NDArray[Any]:
    centers = random.uniform(0, 60, (count, 2))
    sizes = random.choice([0, 1, 10, 30], (count, 2)) * random.uniform(0.5, 1.5, (count, 2))
    boxes = np.concatenate((centers - sizes / 2, centers + sizes / 2), axis=1)
    return np.round(boxes / 4) * 4 if on_grid else boxes


def _scores(random: np.random.Generator, count: int, kind: int) -> npt.NDArray[np.float32]:
    scores = (
        random.uniform(0, 1, count),
        np.round(random.uniform(0, 1, count), 1),
        random.uniform(0, 0.003, count),
        np.full(count, 0.5),
        random.beta(1, 30, count),
    )[kind]
    return scores.astype(np.float32)


def _spoil(random: np.random.Generator, boxes: npt.NDArray[np.float32], seed: int) -> None:
    """Equal boxes, boxes with swapped corners, infinite boxes."""
    count = len(boxes)
    if seed % 7 == 0:
        boxes[random.integers(0, count, count // 4 + 1)] = boxes[0]
    if seed % 11 == 0:
        boxes[random.integers(0, count, 3)] = boxes[random.integers(0, count, 3)][:, [2, 3, 0, 1]]
    if seed % 13 == 0:
        boxes[random.integers(0, count, 3)] = [-np.inf, -np.inf, np.inf, np.inf]
