"""What `variants` shows: every released checkpoint, its published AP, its family's rules and what the cache
has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from effdet_model.variants import get_config
from porting.official import http as transfer
from porting.official.cache import CacheState, cache_state
from porting.official.catalog import CatalogEntry, catalog, find


@dataclass(frozen=True)
class VariantRow:
    """One line of the table. AP in percent; `image_size` is (height, width); `newest`: taken without a
    family."""

    variant: str
    family: str
    kinds: tuple[str, ...]
    image_size: tuple[int, int]
    ap_val: float | None
    ap_testdev: float | None
    params: str | None
    nms_profile: str
    url: str
    newest: bool
    state: CacheState
    h5_state: CacheState | None
    note: str | None


def variant_rows(cache: str | Path | None = None) -> list[VariantRow]:
    """All 35 released checkpoints with the state of the cache (looks at names and sizes, reads no file)."""
    return [_row(entry, cache) for entry in catalog()]


def variant_table(rows: Sequence[VariantRow]) -> Table:
    """The rows for a terminal of at least 80 columns; ● is in the cache, ◐ in part."""
    caption = ["● in the cache, ◐ in part; † needs --family; AP: COCO, percent"]
    caption += [f"* {row.variant}, {row.family}: {row.note}" for row in rows if row.note]
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), caption="\n".join(caption), caption_justify="left"
    )
    for name in ("variant", "family"):
        table.add_column(name, no_wrap=True)
    for name in ("size", "AP val", "AP test", "params"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("scored with", no_wrap=True)
    table.add_column("cache", overflow="fold")
    for row in rows:
        table.add_row(
            row.variant,
            row.family if row.newest else f"{row.family} †",
            "x".join(dict.fromkeys(map(str, row.image_size))),  # square: one number
            _number(row.ap_val) + (" *" if row.note else ""),
            _number(row.ap_testdev),
            row.params or "",
            row.nms_profile,
            ", ".join(filter(None, (_shown(row.state), _shown(row.h5_state, " h5")))),
        )
    return table


@contextmanager
def progress_bar(label: str) -> Iterator[transfer.Progress]:
    """A bar on the terminal for `fetch(..., progress=...)`; appears with the first byte."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, visible=False)

        def show(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield show


def _row(entry: CatalogEntry, cache: str | Path | None) -> VariantRow:
    return VariantRow(
        variant=entry.variant,
        family=entry.family,
        kinds=("ckpt", "h5") if entry.h5_url else ("ckpt",),
        image_size=get_config(entry.variant).image_size,
        ap_val=entry.ap_val,
        ap_testdev=entry.ap_testdev,
        params=entry.params,
        nms_profile=entry.nms_profile,
        url=entry.ckpt_url,
        newest=find(entry.variant).family == entry.family,
        state=cache_state(entry.ckpt_url, cache),
        h5_state=cache_state(entry.h5_url, cache) if entry.h5_url else None,
        note=entry.note,
    )


def _number(value: float | None) -> str:
    """As published: 34.3, 44.0, 26.41."""
    return "" if value is None else f"{value:.2f}".removesuffix("0")


def _shown(state: CacheState | None, kind: str = "") -> str:
    if state is None or state.kind == "absent":
        return ""
    return f"{'●' if state.kind == 'cached' else '◐'}{kind} {state.size / 1e6:.0f} MB"
