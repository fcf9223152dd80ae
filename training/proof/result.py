"""What the proof of training found, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porting.files import atomic_write
from verify.diff.result import Difference

KINDS = {
    "rate": "learning rates", "target": "targets", "loss": "loss terms", "gradient": "gradients",
    "statistic": "batch norm statistics", "parameter": "parameters", "average": "moving averages",
}  # fmt: skip
"""What is compared, in the order in which one leads to the next."""

ABSENT = "the {} has none"


@dataclass(frozen=True)
class Compared:
    """One value or tensor after one step.

    Attributes:
        kind: a key of `KINDS`. step: from 1. name: of the state_dict, a loss term, ...
        difference: its `max_rel` is what `tolerance` is held against.
    """

    kind: str
    step: int
    name: str
    difference: Difference

    @property
    def ok(self) -> bool:
        """Whether it is within tolerance."""
        return self.difference.ok

    @property
    def excess(self) -> float:
        """How many times what is allowed."""
        return self.difference.excess


@dataclass(frozen=True)
class ProofResult:
    """Both sides' steps compared.

    Attributes:
        against: "TensorFlow" or "effdet 0.4.1". dtype: of the port.
        rows: everything compared. losses: (reference's, port's) loss of each step.
        clipped: at how many of the steps gradients were clipped.
        notes: what was left out or set for the proof, in sentences.
    """

    variant: str
    against: str
    recipe: Mapping[str, Any]
    dtype: str
    steps: int
    images: int
    image_size: tuple[int, int]
    rows: Sequence[Compared]
    losses: Sequence[tuple[float, float]]
    clipped: int
    notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every row is within tolerance."""
        return all(row.ok for row in self.rows)

    @property
    def first_failure(self) -> Compared | None:
        """The worst row of the first kind that fails, in the first step in which one does."""
        failed = [row for row in self.rows if not row.ok]
        if not failed:
            return None
        order = list(KINDS)
        first = min(failed, key=lambda row: (row.step, order.index(row.kind)))
        return max((row for row in failed if (row.kind, row.step) == (first.kind, first.step)), key=_by_excess)

    @property
    def cause(self) -> str:
        """Which part of a step the first difference points to; empty where all is equal."""
        failure = self.first_failure
        return _cause(failure, [row for row in self.rows if not row.ok]) if failure else ""

    @property
    def verdict(self) -> str:
        """One sentence."""
        what = f"{len(self.rows)} values and tensors of {self.steps} training steps"
        if self.passed:
            return f"{what} are those of {self.against} ({self.dtype})."
        failed = sum(not row.ok for row in self.rows)
        return f"{failed} of {what} are not those of {self.against} ({self.dtype}); it begins at {self.cause}."

    def worst(self, kind: str, step: int) -> Compared | None:
        """The row of a kind and step that is furthest off."""
        return max((row for row in self.rows if (row.kind, row.step) == (kind, step)), key=_by_excess, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the settings, a summary by kind and step, and every row."""
        plain = {
            name: getattr(self, name)
            for name in (
                "variant", "against", "dtype", "steps", "images", "image_size", "clipped", "passed", "verdict", "cause",
            )
        }  # fmt: skip
        summary = [
            {
                "kind": kind, "step": step, "compared": len(found), "failed": sum(not row.ok for row in found),
                "worst": max(found, key=_by_excess).name, "max_rel": max(row.difference.max_rel for row in found),
            }
            for step in range(1, self.steps + 1)
            for kind in KINDS
            if (found := [row for row in self.rows if (row.kind, row.step) == (kind, step)])
        ]  # fmt: skip
        rows = [
            {
                "kind": row.kind, "step": row.step, "name": row.name, "ok": row.ok,
                **{
                    name: _finite(getattr(row.difference, name))
                    for name in ("max_abs", "max_rel", "tolerance", "reference_max", "own_max_rel")
                },
                "note": row.difference.note,
            }
            for row in self.rows
        ]  # fmt: skip
        return {
            **plain, "recipe": dict(self.recipe), "notes": list(self.notes), "summary": summary,
            "losses": [list(pair) for pair in self.losses], "environment": dict(self.environment),
            "seconds": dict(self.seconds), "rows": rows,
        }  # fmt: skip

    def write_json(self, path: Path) -> None:
        """`to_dict` as a file, whole or not at all."""
        with atomic_write(path) as temporary:
            text = json.dumps(_plain(self.to_dict()), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def _by_excess(row: Compared) -> float:
    return row.excess


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return _finite(value)


def _cause(first: Compared, failed: Sequence[Compared]) -> str:
    here = [row for row in failed if (row.kind, row.step) == (first.kind, first.step)]
    names = {row.name for row in here}
    where = f"step {first.step}, {KINDS[first.kind]}"
    if first.kind == "rate":
        return f"{where}: the learning rate's schedule"
    if first.kind == "target":
        return f"{where}: anchors, their matching or the box coder"
    if first.kind == "loss":
        if "reg_l2_loss" in names and "detection_loss" not in names:
            return f"{where}: the weight decay in the loss"
        if first.step > 1:
            return f"{where}: what the step before did to the weights"
        return f"{where}: the loss, or the network in training"
    if first.kind == "gradient":
        return f"{where}: the loss's or the network's derivative, while the loss itself is equal"
    if first.kind == "statistic":
        means = [row for row in here if row.name.endswith("running_mean")]
        part = "momentum" if means else "variance (of N or N - 1 values)"
        return f"{where}: the batch norms' {part}, or what they see"
    if first.kind == "parameter":
        later = "momentum or another state of the optimiser" if first.step > 1 else "clipping or the optimiser"
        return f"{where}: {later}, while the first gradients are equal"
    return f"{where}: the moving average's decay, or what it averages"
