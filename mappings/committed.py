"""The tables of the official variants as files that people can read: mappings/tables/*.tsv.

`python -m mappings.committed` writes them anew from the rules; a test fails when they and the rules disagree.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from effdet_model.variants import OFFICIAL_VARIANTS, get_config
from mappings.table import MappingTable, Row, build_table

TABLES = Path(__file__).parent / "tables"

_HEADER = "pytorch_key\tkind\tpytorch_shape\ttensorflow_shape\ttensorflow_names"


def table_name(variant: str) -> str:
    """The table of an official variant: d0 for d0 and d0_ap, d6 for d6, d6_640 and d7 (same architecture)."""
    name = variant.removesuffix("_ap").removesuffix("_640")
    return "d6" if name == "d7" else name


def table_text(table: MappingTable) -> str:
    """A table as tab-separated text."""
    lines = [
        "\t".join(
            [
                row.pytorch_key,
                row.kind,
                _shape_text(row.pytorch_shape),
                _shape_text(row.tensorflow_shape),
                " ".join(row.tensorflow_names),
            ]
        )
        for row in table.rows
    ]
    return "\n".join([_HEADER, *lines]) + "\n"


@cache
def read_committed_table(name: str) -> MappingTable:
    """The committed table of an official variant, with its 90 classes and 9 anchors per location."""
    lines = (TABLES / f"{table_name(name)}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = []
    for line in lines:
        key, kind, shape, tf_shape, names = line.split("\t")
        rows.append(Row(key, tuple(names.split()), kind, _shape(shape), _shape(tf_shape)))
    return MappingTable(name, tuple(rows))


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x")) if text else ()


def write_committed_tables(folder: Path = TABLES) -> list[Path]:
    """Write the table of every architecture among the official variants; returns the files."""
    folder.mkdir(exist_ok=True)
    written = []
    for name in sorted({table_name(variant) for variant in OFFICIAL_VARIANTS}):
        path = folder / f"{name}.tsv"
        path.write_text(table_text(build_table(get_config(name))), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    for table_path in write_committed_tables():
        print(table_path)
