"""What a training came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verify.evaluation.result import EvaluationResult


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        history: one row per epoch. best: AP of best.pth, None where nothing was judged. files: what was written.
        evaluation: of best.pth on the validation images.
    """

    output: Path
    epochs: int
    steps: int
    history: Sequence[dict[str, float]]
    best: float | None
    best_epoch: int | None
    stopped: str
    files: Sequence[Path]
    evaluation: EvaluationResult | None = None
