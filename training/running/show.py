"""A training for a terminal and for machines."""

from __future__ import annotations

from typing import Any

from training.running.outcome import Trained


def trained_json(done: Trained) -> dict[str, Any]:
    """Plain data."""
    return {
        "output": str(done.output), "epochs": done.epochs, "steps": done.steps, "best_AP": done.best,
        "best_epoch": done.best_epoch, "stopped": done.stopped or None, "files": [str(path) for path in done.files],
        "last_epoch": done.history[-1] if done.history else None,
    }  # fmt: skip


def trained_summary(done: Trained) -> str:
    """A few lines."""
    lines = [f"{done.epochs} epochs, {done.steps} updates" + (f"; {done.stopped}" if done.stopped else "")]
    if done.best is not None:
        lines.append(f"best AP {done.best:.4f} after epoch {done.best_epoch}")
    return "\n".join([*lines, *(str(path) for path in done.files)])
