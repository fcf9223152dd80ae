"""The released checkpoints, and their downloads, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from porting.official import obtain as quiet
from porting.official.cache import CacheState
from porting.official.catalog_table import VariantRow
from porting.official.obtain import Obtained
from porting.progress import progress
from porting.recognise.files import WeightSettings


def obtain(variant: str, checkpoint: str | None, **how: Any) -> Obtained:
    """`porting.official.obtain.obtain`, with a bar while something is downloaded."""
    with progress("downloading", "bytes") as report:
        return quiet.obtain(variant, checkpoint, progress=report, **how)


def obtain_for_weights(
    weights: Path, variant: str | None, checkpoint: str | None, **how: Any
) -> tuple[Obtained, WeightSettings]:
    """`porting.official.obtain.obtain_for_weights`, with a bar."""
    with progress("downloading", "bytes") as report:
        return quiet.obtain_for_weights(weights, variant, checkpoint, progress=report, **how)


def obtain_url(path: str, offline: bool = False) -> tuple[Path, tuple[str, ...]]:
    """`porting.official.obtain.obtain_url`, with a bar."""
    with progress("downloading", "bytes") as report:
        return quiet.obtain_url(path, offline=offline, progress=report)


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


def _number(value: float | None) -> str:
    """As published: 34.3, 44.0, 26.41."""
    return "" if value is None else f"{value:.2f}".removesuffix("0")


def _shown(state: CacheState | None, kind: str = "") -> str:
    if state is None or state.kind == "absent":
        return ""
    return f"{'●' if state.kind == 'cached' else '◐'}{kind} {state.size / 1e6:.0f} MB"
