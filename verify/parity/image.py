"""What parity found on one image, as plain data that survives a crash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verify.parity.matching import Rows
from verify.parity.rounding import share

_NO_ROWS = np.zeros((0, 6), np.float32)
_NO_LIMITS = np.zeros((0, 2))


@dataclass(frozen=True)
class Measure:
    """How far one stage's results are from TensorFlow's.

    Attributes:
        largest: the largest difference, in the stage's unit. used: the largest share of what is allowed; above 1 where
            something differs. differing: items beyond it, or without a counterpart, of `items`.
    """

    largest: float
    used: float
    differing: int
    items: int

    @property
    def ok(self) -> bool:
        """Whether nothing differs by more than what is allowed."""
        return self.differing == 0 and self.used <= 1

    @classmethod
    def of(cls, differences: Sequence[float], allowed: float) -> Measure:
        """Differences that may all be as large."""
        worst = max(differences, default=0.0)
        used = worst / allowed if allowed else (0.0 if worst == 0 else math.inf)
        return cls(worst, used, sum(not value <= allowed for value in differences), len(differences))

    def to_plain(self) -> list[float]:
        """Plain data."""
        return [self.largest, self.used, self.differing, self.items]


@dataclass(frozen=True)
class ImageParity:
    """One image, compared.

    Attributes:
        sha256: of the file. refused: why it was not used.
        measures: by stage, alone and from the file.
        theirs, mine: detections of TensorFlow and PyTorch. resolved: those of TensorFlow, or, where a detection had no
            partner, what TensorFlow's suppression makes of PyTorch's candidates. allowed: [n, 2], what the sides and
            score of the resolved ones may differ.
        by_rounding: how many had no partner before.
        noise: TensorFlow's own rounding, by output; ratios: how many times that PyTorch is away from the truth. Both
            empty where the truth was not asked for. own_flips: detections that TensorFlow's own float32 and float64
            runs do not share; None likewise.
    """

    image_id: int
    sha256: str | None
    refused: str | None
    measures: Mapping[str, tuple[Measure, Measure]] = field(default_factory=dict)
    theirs: Rows = field(default_factory=lambda: _NO_ROWS)
    mine: Rows = field(default_factory=lambda: _NO_ROWS)
    resolved: Rows = field(default_factory=lambda: _NO_ROWS)
    allowed: np.ndarray = field(default_factory=lambda: _NO_LIMITS)
    by_rounding: int = 0
    noise: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    own_flips: int | None = None

    @classmethod
    def without(
        cls, image_id: int, sha256: str | None, reason: str,
        measures: Mapping[str, tuple[Measure, Measure]] | None = None,
    ) -> ImageParity:
        """An image that was not compared."""
        return cls(image_id, sha256, reason, measures or {})

    def to_plain(self) -> dict[str, Any]:
        """Plain data; float32 values survive JSON exactly."""
        rows = {
            name: getattr(self, name).astype(np.float64).tolist() for name in ("theirs", "mine", "resolved", "allowed")
        }
        return {
            "image_id": self.image_id, "sha256": self.sha256, "refused": self.refused, **rows,
            "measures": {name: [measure.to_plain() for measure in pair] for name, pair in self.measures.items()},
            "by_rounding": self.by_rounding, "noise": dict(self.noise), "ratios": dict(self.ratios),
            "own_flips": self.own_flips,
        }  # fmt: skip

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> ImageParity:
        """What `to_plain` wrote."""
        values = dict(plain)
        for name in ("theirs", "mine", "resolved"):
            values[name] = np.array(values[name], np.float32).reshape(-1, 6)
        values["allowed"] = np.array(values["allowed"], np.float64).reshape(-1, 2)
        values["measures"] = {
            name: (_measure(pair[0]), _measure(pair[1])) for name, pair in values["measures"].items()
        }
        return cls(**values)


def worst_of(boxes: np.ndarray, box_limits: np.ndarray, scores: np.ndarray, score_limits: np.ndarray) -> float:
    """The largest share of what boxes and scores may differ."""
    return float(max(share(boxes, box_limits).max(initial=0), share(scores, score_limits).max(initial=0)))


def _measure(plain: Sequence[float]) -> Measure:
    largest, used, differing, items = plain
    return Measure(float(largest), float(used), int(differing), int(items))
