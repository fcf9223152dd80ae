"""The table of released checkpoints, with what is in the cache."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from porting.official.cache import cached_path, part_path
from porting.official.catalog import find
from porting.official.catalog_table import variant_rows
from porting.official.show import variant_table


def test_rows_show_the_cache(tmp_path: Path) -> None:
    whole, partial = cached_path(find("d0").url, tmp_path), part_path(cached_path(find("d1").url, tmp_path))
    whole.parent.mkdir(parents=True)
    whole.write_bytes(b"x" * 2_000_000)
    partial.write_bytes(b"x" * 10)
    rows = {(row.variant, row.family): row for row in variant_rows(tmp_path)}
    assert len(rows) == 35
    assert rows["d0", "coco2"].state.kind == "cached" and rows["d0", "coco2"].state.size == 2_000_000
    assert rows["d1", "coco2"].state.kind == "partial" and rows["d0", "coco"].state.kind == "absent"
    assert rows["d0", "coco2"].newest and not rows["d0", "coco"].newest
    assert sum(row.newest for row in rows.values()) == 26, "each official variant has one newest family"
    assert rows["d2_640", "coco640"].image_size == (640, 640)
    assert rows["lite0", "lite"].kinds == ("ckpt",) and rows["d0", "coco2"].kinds == ("ckpt", "h5")


@pytest.mark.parametrize("width", [80, 160])
def test_table_for_the_terminal(tmp_path: Path, width: int) -> None:
    path = cached_path(find("d0").url, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 2_000_000)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(variant_table(variant_rows(tmp_path)))
    lines = console.export_text().splitlines()
    (line,) = [line for line in lines if "● 2 MB" in line]
    for text in ("d0", "coco2", "512", "34.3", "34.6", "3.9M", "numpy_gaussian"):
        assert text in line
    assert any("d3_softnms" in line for line in lines)
