"""Logs of a training: steps.csv, log.csv, and where asked for TensorBoard and Weights & Biases."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from effdet_model.errors import InputError, unknown_name
from porting.files import atomic_write

STEPS_FILE, EPOCHS_FILE = "steps.csv", "log.csv"
EXTRA_LOGS = ("tensorboard", "wandb")
STEP_COLUMNS = (
    "step", "epoch", "learning_rate", "loss", "detection_loss", "class_loss", "box_loss", "box_iou_loss", "reg_l2_loss",
    "gradient_norm",
)  # fmt: skip


class Sink(Protocol):
    """Another place that numbers go to."""

    def write(self, numbers: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class StepLog:
    """steps.csv: one line per update; after an interruption lines of steps that are done again go."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        self.path = folder / STEPS_FILE
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= steps_done] if steps_done else []
        with atomic_write(self.path) as temporary:
            temporary.write_text(_text(STEP_COLUMNS, rows), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, STEP_COLUMNS, restval="", lineterminator="\n")

    def write(self, numbers: Mapping[str, float]) -> None:
        """Add a line."""
        self._writer.writerow({name: _shown(numbers[name]) for name in STEP_COLUMNS if name in numbers})
        self._file.flush()

    def close(self) -> None:
        """Leave the file."""
        self._file.close()


def write_epochs(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """log.csv: one line per epoch, all columns that any epoch has."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    with atomic_write(folder / EPOCHS_FILE) as temporary:
        temporary.write_text(_text(columns, history), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole lines of a log; a last one that was cut off by a crash is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(io.StringIO(whole)))
    return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]


def open_sinks(names: Iterable[str], folder: Path, settings: Mapping[str, Any]) -> list[Sink]:
    """Other logs by name.

    Raises:
        InputError: an unknown name, or its package is not installed.
    """
    sinks: list[Sink] = []
    for name in names:
        if name not in EXTRA_LOGS:
            raise unknown_name("log", name, EXTRA_LOGS)
        sinks.append(_TensorBoard(folder) if name == "tensorboard" else _WeightsAndBiases(folder, settings))
    return sinks


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                f"tensorboard: expected its package, found none ({error}); pip install tensorboard."
            ) from None
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError(f"wandb: expected its package, found none ({error}); pip install wandb.") from None
        self._run: Any = wandb.init(project="effdet-port", dir=str(folder), config=dict(settings), resume="allow")

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), restval="", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: _shown(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _shown(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value
