"""Progress on a terminal, nothing elsewhere. Work reports through callbacks; the command line draws them here alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

Report = Callable[..., None]
"""Called with (how much is done, how much there is in all; None where it is not known), and a label if it changes."""


class _Speed(ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "")


@contextlib.contextmanager
def progress(label: str, unit: Literal["", "images", "bytes"] = "") -> Iterator[Report]:
    """A bar that appears with the first report; with its speed where a unit is named."""
    amount: dict[str, tuple[ProgressColumn, ...]] = {
        "": (MofNCompleteColumn(),),
        "images": (MofNCompleteColumn(), _Speed("images")),
        "bytes": (DownloadColumn(), TransferSpeedColumn()),
    }
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amount[unit], TimeRemainingColumn())
    console = Console(stderr=True)
    with Bars(*columns, transient=True, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(label, total=None, visible=False)

        def report(done: int, total: int | None, now: str = label) -> None:
            bars.update(task, completed=done, total=total, visible=True, description=now)

        yield report


@contextlib.contextmanager
def status(label: str) -> Iterator[Callable[..., None]]:
    """A line that shows what is being worked on: call it with any words."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *words: None
        return
    with console.status(label) as line:
        yield lambda *words: line.update(Text(" ".join([label, *(w for w in words if isinstance(w, str))])))
