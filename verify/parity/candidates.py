"""Candidates before suppression, both sides': the same places, boxes and scores, equal scores at the edge as a set."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from effdet_model.config import EfficientDetConfig
from effdet_model.selection import Candidates
from verify.parity.image import Measure, worst_of
from verify.parity.rounding import MULTIPLE, Allowance, Named, Rounding, difference

Indices = npt.NDArray[np.int64]


class Places:
    """Where an anchor comes from, and what the network says of a place.

    Args:
        anchors: float32 [anchors, 4], yxyx, level by level.
    """

    def __init__(self, config: EfficientDetConfig, anchors: np.ndarray) -> None:
        self.config, self.anchors = config, anchors
        per_cell = config.num_scales * len(config.aspect_ratios)
        height, width = config.image_size
        ends, total = [], 0
        for level in range(config.max_level + 1):
            if level:
                height, width = (height - 1) // 2 + 1, (width - 1) // 2 + 1
            if level in config.levels:
                total += height * width * per_cell
                ends.append(total)
        self._ends = np.array(ends)

    def levels(self, anchors: Indices) -> Indices:
        """The position, in the config's levels, of every anchor's level."""
        return np.searchsorted(self._ends, anchors, side="right")

    def logits(self, outputs: Named) -> np.ndarray:
        """[anchors, classes] of all levels.

        Args:
            outputs: NHWC without N, by name.
        """
        classes = self.config.num_classes
        return np.concatenate([outputs[f"class.{level}"].reshape(-1, classes) for level in self.config.levels])


def compare_candidates(
    places: Places, reference: Candidates, port: Candidates, allowed: Allowance, their_outputs: Named,
    my_outputs: Named | None, noise: Rounding | None, max_candidates: int | None = None,
) -> Measure:
    """Boxes and scores of the places that both have; what only one has must be equal to the last ones by rounding.

    Args:
        allowed: what each of the reference's candidates may differ.
        my_outputs, noise: None where both sides were given the same outputs, so that places must be the same.
        max_candidates: as in the suppression profile.
    """
    classes = places.config.num_classes
    a = reference.anchors.numpy() * classes + reference.classes.numpy()
    b = port.anchors.numpy() * classes + port.classes.numpy()
    if len(a) == len(b) and np.array_equal(a, b):
        left = right = np.arange(len(a))
    else:
        _, left, right = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    boxes_a, boxes_b = reference.boxes_yxyx.numpy()[left], port.boxes_yxyx.numpy()[right]
    boxes = difference(boxes_a, boxes_b).max(1, initial=0)
    scores = difference(reference.scores.numpy()[left], port.scores.numpy()[right])
    used = worst_of(boxes, allowed.boxes[left], scores, allowed.scores[left])
    differing = int((~((boxes <= allowed.boxes[left]) & (scores <= allowed.scores[left]))).sum())
    lone = np.concatenate((np.setdiff1d(a, b), np.setdiff1d(b, a)))
    if len(lone) and my_outputs is not None and noise is not None:
        lone = lone[~_equal_by_rounding(places, lone, (a, b), their_outputs, my_outputs, noise, max_candidates)]
    with np.errstate(invalid="ignore", over="ignore"):
        extent = np.maximum(1.0, np.abs(boxes_a.astype(np.float64)).max(1, initial=0) / 1000)
        largest = float(np.nan_to_num(boxes / extent, nan=0.0).max(initial=0))
    lone_count = len(lone) + abs(len(a) - len(b))
    return Measure(
        math.inf if lone_count and not len(left) else largest, math.inf if lone_count else used,
        differing + lone_count, len(left) + lone_count,
    )  # fmt: skip


def _equal_by_rounding(
    places: Places, lone: Indices, both: tuple[Indices, Indices], their_outputs: Named, my_outputs: Named,
    noise: Rounding, max_candidates: int | None,
) -> npt.NDArray[np.bool_]:
    """Which places are candidates on one side only because their logit is equal to the last one's by rounding."""
    classes = places.config.num_classes
    of_levels = 2 * MULTIPLE * noise.of("class", list(places.config.levels))
    equal = np.ones(len(lone), bool)
    for logits, chosen in ((places.logits(their_outputs), both[0]), (places.logits(my_outputs), both[1])):
        values = logits[lone // classes, lone % classes].astype(np.float64)
        if max_candidates == 0:  # the best class of every anchor
            rival = logits[lone // classes].max(1).astype(np.float64)
            equal &= rival - values <= of_levels[places.levels(lone // classes)]
        else:
            edge = float(logits[chosen // classes, chosen % classes].min())
            equal &= np.abs(values - edge) <= of_levels.max()
    return equal
