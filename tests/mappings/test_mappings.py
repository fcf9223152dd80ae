"""The name map: layouts, rules, committed tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effdet_model import InputError, get_config
from effdet_model.variants import OFFICIAL_VARIANTS
from mappings.committed import TABLES, table_for, table_name, table_text, write_committed_tables
from mappings.layouts import LAYOUTS, register
from mappings.table import build_table

CUSTOM = [
    {}, {"num_classes": 7}, {"num_scales": 2, "aspect_ratios": [1.0]}, {"fpn_name": "qufpn"},
    {"fpn_weight_method": "channel_attn"}, {"separable_conv": False}, {"conv_bn_act_pattern": True},
    {"apply_bn_for_resampling": False}, {"min_level": 2}, {"backbone_name": "efficientnet-b1"},
]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_layouts_go_both_ways(kind: str) -> None:
    layout = LAYOUTS[kind]
    shape = {"bias": (5,), "batch_norm": (5,), "counter": (), "edge_weight": (2, 3), "depthwise": (5, 1, 3, 2)}
    array = np.arange(np.prod(shape.get(kind, (4, 3, 2, 5))), dtype=np.float32).reshape(shape.get(kind, (4, 3, 2, 5)))
    back = layout.to_tensorflow(array)
    if kind == "counter":
        assert back == [] and layout.to_pytorch([]) == 0
        return
    assert all(part.shape == layout.tensorflow_shape(array.shape) for part in back)
    np.testing.assert_array_equal(layout.to_pytorch(back), array)


def test_conv_layouts_against_known_places() -> None:
    hwio = np.zeros((3, 2, 5, 7), np.float32)
    hwio[2, 1, 4, 6] = 1
    assert LAYOUTS["conv"].to_pytorch([hwio])[6, 4, 2, 1] == 1
    depthwise = np.zeros((3, 2, 5, 1), np.float32)
    depthwise[2, 1, 4, 0] = 1
    assert LAYOUTS["depthwise"].to_pytorch([depthwise])[4, 0, 2, 1] == 1


def test_a_kind_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="'conv' is registered twice"):
        register("conv", LAYOUTS["bias"])


@pytest.mark.parametrize("variant", OFFICIAL_VARIANTS)
def test_committed_tables_are_what_the_rules_say(variant: str) -> None:
    text = table_text(build_table(get_config(variant)))
    committed = (TABLES / f"{table_name(variant)}.tsv").read_text()
    assert committed == text, "run `make tables` and look at the difference"


def test_tables_are_written_anew_by_one_command(tmp_path: Path) -> None:
    written = write_committed_tables(tmp_path / "tables")
    assert sorted(p.name for p in written) == sorted(p.name for p in TABLES.glob("*.tsv"))
    assert all(path.read_bytes() == (TABLES / path.name).read_bytes() for path in written)


@pytest.mark.parametrize("overrides", CUSTOM)
@pytest.mark.parametrize("variant", ["d0", "lite0", "d7x"])
def test_table_without_building_the_model(variant: str, overrides: dict[str, object]) -> None:
    config = get_config(variant, **overrides)
    assert table_for(config) == build_table(config)


@pytest.mark.parametrize("overrides", CUSTOM)
def test_every_name_once_on_both_sides(overrides: dict[str, object]) -> None:
    table = build_table(get_config("d0", **overrides))
    keys = [row.pytorch_key for row in table.rows]
    names = [name for row in table.rows for name in row.tensorflow_names]
    assert len(keys) == len(set(keys)) and len(names) == len(set(names))


@pytest.mark.parametrize("variant", [v for v in OFFICIAL_VARIANTS if "_" not in v])
def test_variables_are_those_of_the_official_model(variant: str, shared: Path) -> None:
    lines = (shared / "variables" / f"{variant}.tsv").read_text().splitlines()[1:]
    official = {}
    for line in lines:
        name, shape = line.split("\t")
        official[name] = tuple(int(d) for d in shape.split("x")) if shape else ()
    assert build_table(get_config(variant)).tensorflow_shapes == official


def test_known_rows() -> None:
    """Facts of google/automl's d0, so that the repository alone shows that rules and tables are not both wrong."""
    rows = {row.pytorch_key: row for row in build_table(get_config("d0")).rows}
    expected = {
        "backbone.conv_stem.weight":
            ("efficientnet-b0/stem/conv2d/kernel", (3, 3, 3, 32)),
        "backbone.blocks.1.0.conv_dw.weight":
            ("efficientnet-b0/blocks_1/depthwise_conv2d/depthwise_kernel", (3, 3, 96, 1)),
        "backbone.blocks.6.0.bn3.running_var":
            ("efficientnet-b0/blocks_15/tpu_batch_normalization_2/moving_variance", (320,)),
        "fpn.resample.3.conv.conv.weight":
            ("resample_p6/conv2d/kernel", (1, 1, 320, 64)),
        "fpn.cell.0.fnode.5.combine.resample.2.conv.bn.bias":
            ("fpn_cells/cell_0/fnode5/resample_0_2_10/bn/beta", (64,)),
        "fpn.cell.2.fnode.7.after_combine.conv.conv_pw.bias":
            ("fpn_cells/cell_2/fnode7/op_after_combine12/conv/bias", (64,)),
        "class_net.bn_rep.1.4.bn.weight":
            ("class_net/class-1-bn-7/gamma", (64,)),
        "box_net.predict.conv_pw.weight":
            ("box_net/box-predict/pointwise_kernel", (1, 1, 64, 36)),
    }  # fmt: skip
    for key, (name, shape) in expected.items():
        assert (rows[key].tensorflow_names, rows[key].tensorflow_shape) == ((name,), shape)
    assert rows["fpn.cell.1.fnode.4.combine.edge_weights"].tensorflow_names == tuple(
        f"fpn_cells/cell_1/fnode4/WSM{suffix}" for suffix in ("", "_1", "_2")
    )
    assert len([row for row in rows.values() if row.tensorflow_names]) == 676


def test_models_that_exist_in_pytorch_only() -> None:
    with pytest.raises(InputError, match="mapping of efficientdet_d0: expected an architecture that google/automl"):
        build_table(get_config("efficientdet_d0"))
