"""A progress bar with images per second, on a terminal only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]
"""Called with the number of images done since the last call."""


@contextlib.contextmanager
def image_progress(total: int, shown: bool = True) -> Iterator[Advance]:
    """A bar with images per second on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield lambda count: None
        return
    columns = (
        TextColumn("images"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("images", total=total, speed="")

        def advance(count: int) -> None:
            bar.update(task, advance=count)
            speed = bar.tasks[0].speed
            bar.update(task, speed=f"{speed:.1f} images/s" if speed else "")

        yield advance
