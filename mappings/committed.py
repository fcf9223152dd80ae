"""The tables of the official variants as files that people can read: mappings/tables/*.tsv.

`python -m mappings.committed` writes them anew from the rules; a test fails when they and the rules disagree.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from effdet_model.config import EfficientDetConfig
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


def table_json(table: MappingTable) -> dict[str, Any]:
    """A table as plain data."""
    return {"variant": table.variant, "counts": table.counts(), "rows": [asdict(row) for row in table.rows]}


@cache
def read_committed_table(name: str) -> MappingTable:
    """The committed table of an official variant, with its 90 classes and 9 anchors per location."""
    lines = (TABLES / f"{table_name(name)}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = []
    for line in lines:
        key, kind, shape, tf_shape, names = line.split("\t")
        rows.append(Row(key, tuple(names.split()), kind, _shape(shape), _shape(tf_shape)))
    return MappingTable(name, tuple(rows))


def table_for(config: EfficientDetConfig) -> MappingTable:
    """The mapping table of any config: `build_table`, or its committed result where the architecture is official.

    The committed table spares building the model; class count and anchors only change the prediction layers.

    Raises:
        InputError: TensorFlow's official model has no such architecture.
    """
    if config.name not in OFFICIAL_VARIANTS or _architecture(config) != _architecture(get_config(config.name)):
        return build_table(config)
    outputs = {
        "class_net": config.num_classes * config.anchors_per_location,
        "box_net": 4 * config.anchors_per_location,
    }
    rows = [_with_outputs(row, outputs) for row in read_committed_table(config.name).rows]
    return MappingTable(config.name, tuple(rows))


_NOT_ARCHITECTURE = (
    "name", "image_size", "num_classes", "num_scales", "aspect_ratios", "anchor_scale", "mean_rgb", "stddev_rgb",
    "scale_range", "label_map", "nms_configs", "backbone_args", "survival_prob", "conv_after_downsample",
)  # fmt: skip


def _architecture(config: EfficientDetConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key not in _NOT_ARCHITECTURE}


def _with_outputs(row: Row, outputs: dict[str, int]) -> Row:
    net, part, leaf = (row.pytorch_key.split(".", 2) + ["", ""])[:3]
    if part != "predict" or leaf == "conv_dw.weight":
        return row
    count = outputs[net]
    return replace(
        row, pytorch_shape=(count, *row.pytorch_shape[1:]), tensorflow_shape=(*row.tensorflow_shape[:-1], count)
    )


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
