"""The boxes that may suppress each other (those of one class, or all), picked one at a time.

A group answers `head`, the score of its next pick, and `pick`, which takes it and lets it suppress the rest.
Scores never rise, so the best detections over all groups are found by always picking from the group with the
highest head. All float32 operations stand in the order of the code that they must equal bit by bit:
google/automl nms_np.py (6a54c87) and TensorFlow's NonMaxSuppressionV5 (2.21).
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt

from effdet_model.nms_profiles import NmsProfile

Floats = npt.NDArray[np.float32]
GONE = np.float32(-1)
"""The score of what was picked or suppressed; real scores are sigmoids, never negative."""


class Group(abc.ABC):
    """What all kinds of groups share. corners: low and high float32 [2, m] (y, x); scores float32 [m], copied."""

    margin = np.float32(0)
    """What a box is longer than the difference of its coordinates."""

    def __init__(self, profile: NmsProfile, low: Floats, high: Floats, scores: Floats) -> None:
        self.iou_threshold = np.float32(profile.iou_threshold)
        self.sigma = np.float32(profile.sigma)
        threshold = profile.score_threshold
        self.score_threshold = np.float32(-np.inf if threshold is None else threshold)
        self.low, self.high, self.scores = low.copy(), high.copy(), scores.copy()
        self.areas = self._lengths_product(self.high - self.low)
        self._pair = np.empty_like(self.low)
        self._lengths = np.empty_like(self.low)
        self._intersection = np.empty_like(self.scores)
        self._similarity = np.empty_like(self.scores)
        self._next = int(self.scores.argmax())

    @property
    @abc.abstractmethod
    def head(self) -> float | None:
        """The score of the next pick; None when nothing is left."""

    @abc.abstractmethod
    def pick(self) -> tuple[int, float]:
        """(position within the group, score) of the next pick, which suppresses what it overlaps."""

    def _lengths_product(self, lengths: Floats) -> Floats:
        lengths += self.margin
        product: Floats = lengths[0] * lengths[1]
        return product

    def _overlaps(self, position: int) -> Floats:
        """Intersection over union of one box with all, in a buffer that the next call uses again."""
        lengths, intersection, union = self._lengths, self._intersection, self._similarity
        np.maximum(self.low, self.low[:, position : position + 1], out=self._pair)
        np.minimum(self.high, self.high[:, position : position + 1], out=lengths)
        lengths -= self._pair
        if self.margin:
            lengths += self.margin
        np.maximum(lengths, 0, out=lengths)
        np.multiply(lengths[0], lengths[1], out=intersection)
        np.add(self.areas, self.areas[position], out=union)
        union -= intersection
        return np.divide(intersection, union, out=union)


class NumpyHardGroup(Group):
    """hard and diou suppression of nms_np.py.

    The boxes lie in the order that the official call of numpy's sort gives, which decides which of two equal scores
    comes first.
    """

    margin = np.float32(1)

    def __init__(self, profile: NmsProfile, low: Floats, high: Floats, scores: Floats) -> None:
        self.order = scores.argsort()[::-1]
        super().__init__(profile, low[:, self.order], high[:, self.order], scores[self.order])
        self.distance = profile.method == "diou"

    @property
    def head(self) -> float | None:
        score = self.scores[self._next]
        return None if score < 0 else float(score)

    def pick(self) -> tuple[int, float]:
        place = self._next
        score = float(self.scores[place])
        overlap = self._overlaps(place)
        if self.distance:
            overlap = overlap - self._relative_distance(place)
        self.scores[~(overlap <= self.iou_threshold)] = GONE
        self.scores[place] = GONE
        self._next = int(self.scores.argmax())
        return int(self.order[place]), score

    def _relative_distance(self, position: int) -> Floats:
        """Squared distance of centres over squared diagonal of the enclosing box."""
        at = slice(position, position + 1)
        enclosing = np.maximum(self.high, self.high[:, at]) - np.minimum(self.low, self.low[:, at])
        centers = (self.low + self.high) / np.float32(2)
        offsets = centers[:, at] - centers
        enclosing *= enclosing
        offsets *= offsets
        distance: Floats = (offsets[0] + offsets[1]) / (enclosing[0] + enclosing[1] + np.float32(1e-10))
        return distance


class NumpySoftGroup(Group):
    """gaussian and linear suppression of nms_np.py: every pick lowers the scores of all boxes left.

    The official loop moves its first remaining row to the place of the picked one, which decides which of two
    equal scores comes first; the same is done here. The first pick needs no score, later ones the threshold.
    """

    margin = np.float32(1)

    def __init__(self, profile: NmsProfile, low: Floats, high: Floats, scores: Floats) -> None:
        super().__init__(profile, low, high, scores)
        self.linear = profile.method == "linear"
        self.positions = np.arange(len(scores))
        self._first = 0
        self._picked_any = False

    @property
    def head(self) -> float | None:
        score = self.scores[self._next]
        return None if self._picked_any and not score >= self.score_threshold else float(score)

    def pick(self) -> tuple[int, float]:
        slot = self._next
        position, score = int(self.positions[slot]), float(self.scores[slot])
        overlap = self._overlaps(slot)
        while self._picked_any and not self.scores[self._first] >= self.score_threshold:
            self._first += 1
        scores = self.scores
        scores[slot] = GONE
        if self.linear:
            np.multiply(scores, 1 - overlap, out=scores, where=overlap > self.iou_threshold)
        else:
            np.multiply(overlap, overlap, out=overlap)
            np.divide(overlap, -self.sigma, out=overlap)
            np.multiply(scores, np.exp(overlap, out=overlap), out=scores)
        self._move_first_to(slot)
        self._picked_any = True
        self._next = int(scores.argmax())
        if np.isnan(scores[self._next]):
            scores[np.isnan(scores)] = GONE
            self._next = int(scores.argmax())
        return position, score

    def _move_first_to(self, slot: int) -> None:
        first = self._first
        if first != slot:
            for row in (self.low, self.high, self.areas, self.scores, self.positions):
                row[..., slot] = row[..., first]
            self.scores[first] = GONE
        self._first += 1


class GraphHardGroup(Group):
    """NonMaxSuppressionV5 without sigma: a pick ends all that overlap it by more than the threshold."""

    @property
    def head(self) -> float | None:
        score = self.scores[self._next]
        return None if score < 0 else float(score)

    def pick(self) -> tuple[int, float]:
        position = self._next
        score = float(self.scores[position])
        if not self.areas[position] <= 0:
            overlap = self._overlaps(position)
            undefined = np.isnan(overlap) & (self.scores >= 0)
            if undefined.any():
                self.scores[undefined] = 0 if self.score_threshold < 0 else GONE
            self.scores[overlap > self.iou_threshold] = GONE
        self.scores[position] = GONE
        self._next = int(self.scores.argmax())
        return position, score


class GraphSoftGroup(Group):
    """NonMaxSuppressionV5 with sigma.

    The op decays a box only when it comes to the top of the queue, by all picks since its last visit, the latest
    first. Rounding depends on that order, so the scores here are as old as the op's, and `_weights` has the decay
    of every pick. `_bound` follows all picks at once; what falls well below the threshold can leave early.
    """

    def __init__(self, profile: NmsProfile, low: Floats, high: Floats, scores: Floats) -> None:
        super().__init__(profile, low, high, scores)
        self.scale = np.float32(-0.5) / np.float32(profile.sigma / 2)
        self.soft_cut = profile.soft_cut
        self._weights: list[Floats] = []
        self._seen = [0] * len(scores)
        self._bound = self.scores.copy()
        self._floor = self.score_threshold * np.float32(0.999) if self.score_threshold > 0 else None

    @property
    def head(self) -> float | None:
        score = self.scores[self._next]
        return None if score < 0 else float(score)

    def pick(self) -> tuple[int, float]:
        position = self._next
        score = float(self.scores[position])
        weights = self._decay(position)
        self._weights.append(weights)
        self.scores[position] = GONE
        if self._floor is not None:
            self._bound *= weights
            self.scores[self._bound <= self._floor] = GONE
        self._next = self._advance()
        return position, score

    def _decay(self, position: int) -> Floats:
        if self.areas[position] <= 0:
            return np.ones_like(self.scores)
        overlap = self._overlaps(position)
        exponents = self.scale * overlap
        exponents *= overlap
        weights = np.exp(exponents, dtype=np.float64).astype(np.float32)
        if self.soft_cut:
            weights[~(overlap <= self.iou_threshold)] = 0
        return weights

    def _advance(self) -> int:
        """The position of the next pick: the first whose score stays the same under all picks so far."""
        scores, seen, weights = self.scores, self._seen, self._weights
        while True:
            position = int(scores.argmax())
            old: Any = scores[position]
            if old < 0 or seen[position] == len(weights):
                return position
            new = old
            for pick in range(len(weights) - 1, seen[position] - 1, -1):
                new = new * weights[pick][position]
                if new <= self.score_threshold:
                    break
            seen[position] = len(weights)
            if new == old:
                return position
            scores[position] = new if new > self.score_threshold else GONE


def group_type(profile: NmsProfile) -> type[Group]:
    """The kind of group that a profile of the numpy or graph family works with."""
    if profile.family == "numpy":
        return NumpyHardGroup if profile.method in ("hard", "diou") else NumpySoftGroup
    return GraphHardGroup if profile.method == "hard" else GraphSoftGroup
