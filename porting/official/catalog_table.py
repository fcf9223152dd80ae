"""What `variants` shows: every released checkpoint, its published AP, its family's rules and what the cache
has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from effdet_model.variants import get_config
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
