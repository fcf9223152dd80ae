"""Names of the three dialects become the same canonical names."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from effdet_model.errors import InputError
from porting.checkpoint import dialects
from porting.checkpoint.dialects import EMA_SUFFIX, VALUE_SUFFIX
from porting.checkpoint.object_graph import ObjectGraph, parse_object_graph, unescape

CASES = json.loads(gzip.decompress((Path(__file__).parents[2] / "data" / "dialect_names.json.gz").read_bytes()))
OFFICIAL = "d0 d1 d2 d3 d4 d5 d6 d7 d7x lite0 lite1 lite2 lite3 lite3x lite4".split()


def _names(file: Path) -> dict[str, tuple[int, ...]]:
    rows = [line.split("\t") for line in file.read_text().splitlines()[1:]]
    return {name: tuple(int(size) for size in shape.split("x") if size) for name, shape in rows}


def _graph(case: dict[str, Any]) -> ObjectGraph:
    return parse_object_graph(base64.b64decode(case["graph"]), "the case")


@pytest.mark.parametrize("title", CASES)
def test_every_name_of_unusual_configurations_translates(title: str) -> None:
    case = CASES[title]
    tf1 = dialects.translate_tf1(case["tf1"])
    assert set(tf1.raw) == set(case["tf1"]) and not tf1.unknown and not tf1.ignored
    h5 = dialects.translate_h5(case["h5"])
    assert set(h5.raw) == set(case["tf1"]) and not h5.unknown and not h5.ignored
    found = dialects.translate_object(case["object"], _graph(case))
    assert set(found.raw) == set(case["tf1"]) and not found.unknown and not found.ema
    assert found.ignored == {"_CHECKPOINTABLE_OBJECT_GRAPH": "object graph"}
    assert found.backbone_scope == h5.backbone_scope == tf1.backbone_scope != dialects.PLACEHOLDER_SCOPE


@pytest.mark.parametrize("title", CASES)
def test_each_object_is_the_variable_that_was_saved_there(title: str) -> None:
    graph = _graph(CASES[title])
    found = dialects.translate_object(CASES[title]["object"], graph)
    for canonical, raw_name in found.raw.items():
        assert dialects.canonical_variable(graph.full_names[raw_name]) == canonical


@pytest.mark.parametrize("title", [title for title in CASES if "qufpn" not in title])
def test_the_structure_alone_tells_levels_and_connections(title: str) -> None:
    graph = _graph(CASES[title])
    with_names = dialects.translate_object(CASES[title]["object"], graph)
    graph.full_names.clear()
    without = dialects.translate_object(CASES[title]["object"], graph)
    scope = with_names.backbone_scope
    assert without.backbone_scope == dialects.PLACEHOLDER_SCOPE
    renamed = {
        name.replace(f"{scope}/", f"{dialects.PLACEHOLDER_SCOPE}/", 1): raw for name, raw in with_names.raw.items()
    }
    assert without.raw == renamed


def test_connections_that_nothing_tells_are_refused() -> None:
    graph = _graph(CASES["qufpn"])
    graph.full_names.clear()
    with pytest.raises(InputError, match="not the default graph; save the checkpoint with TensorFlow 2"):
        dialects.translate_object(CASES["qufpn"]["object"], graph)


@pytest.mark.parametrize("variant", OFFICIAL)
def test_official_tf1_names(shared: Path, variant: str) -> None:
    names = _names(shared / "variables" / f"{variant}.tsv")
    found = dialects.translate_tf1([*names, *(name + EMA_SUFFIX for name in names), *(f"{n}/Momentum" for n in names)])
    assert set(found.raw) == set(found.ema) == set(names) and not found.unknown
    assert set(found.ignored.values()) == {"optimizer slot"} and len(found.ignored) == len(names)


@pytest.mark.parametrize("variant", ["d0", "lite0"])
def test_official_h5_and_object_names_with_shapes(shared: Path, variant: str) -> None:
    names = _names(shared / "variables" / f"{variant}.tsv")
    h5 = _names(shared / "variables" / f"{variant}.h5.tsv")
    assert {name: h5[raw] for name, raw in dialects.translate_h5(h5).raw.items()} == names
    objects = _names(shared / "variables" / f"{variant}.object.tsv")
    graph = ObjectGraph(children=[{"resample_layers": 1}, {"0": 2, "1": 3}, {}, {}])
    graph.full_names["backbone/_stem/_conv_stem/kernel" + VALUE_SUFFIX] = (
        f"{list(names)[0].split('/')[0]}/stem/conv2d/kernel"
    )
    found = dialects.translate_object(objects, graph)
    assert {name: objects[raw] for name, raw in found.raw.items()} == names and not found.unknown


def test_a_model_below_another_object_and_its_averages() -> None:
    paths = ["class_net/classes/bias", "class_net/bns/0/1/gamma", "backbone/_blocks/0/_bn2/gamma"]
    graph = ObjectGraph(full_names={f"model/{paths[1]}{VALUE_SUFFIX}": "class_net/class-0-bn-4/gamma"})
    slots = [f"model/{path}/.OPTIMIZER_SLOT/optimizer/{{}}{VALUE_SUFFIX}" for path in paths]
    raw_names = [f"model/{path}{VALUE_SUFFIX}" for path in paths]
    ema_names = [slot.format("average") for slot in slots]
    others = [slot.format(kind) for slot in slots for kind in ("momentum", "optimizer/m")]
    training = ["save_counter" + VALUE_SUFFIX, "model/optimizer/learning_rate" + VALUE_SUFFIX]
    training += ["model/keras_api/metrics/0/total" + VALUE_SUFFIX, "model/optimizer/iter" + VALUE_SUFFIX]
    strange = "model/depth_head/head_transpose/kernel" + VALUE_SUFFIX
    graph.full_names[f"model/class_net/bns/0/0/gamma{VALUE_SUFFIX}"] = "class_net/class-0-bn-3/gamma"
    found = dialects.translate_object([*raw_names, *ema_names, *others, *training, strange], graph)
    assert set(found.raw) == set(found.ema)
    assert found.raw["class_net/class-predict/bias"] == raw_names[0]
    assert found.ema["class_net/class-predict/bias"] == ema_names[0]
    assert found.raw["class_net/class-0-bn-4/gamma"] == raw_names[1]
    assert found.raw["backbone/blocks_0/tpu_batch_normalization_1/gamma"] == raw_names[2]
    assert set(found.ignored) == {*others, *training} and found.unknown == [strange]
    assert found.ignored[others[0]] == "optimizer slot"


def test_fused_blocks_and_edge_weights_by_list() -> None:
    paths = ["backbone/_blocks/2/_fused_conv/kernel", "backbone/_blocks/2/_bn1/beta", "backbone/_blocks/2/_bn2/beta"]
    paths += ["backbone/_blocks/2/_project_conv/kernel", "fpn_cells/cells/1/fnodes/3/vars/0"]
    paths += ["fpn_cells/cells/1/fnodes/3/vars/2", "class_net/bns/0/0/beta"]
    found = dialects.translate_object([path + VALUE_SUFFIX for path in paths], ObjectGraph())
    assert [name for name in found.raw] == [
        "backbone/blocks_2/conv2d/kernel",
        "backbone/blocks_2/tpu_batch_normalization/beta",
        "backbone/blocks_2/tpu_batch_normalization_1/beta",
        "backbone/blocks_2/conv2d_1/kernel",
        "fpn_cells/cell_1/fnode3/WSM",
        "fpn_cells/cell_1/fnode3/WSM_2",
        "class_net/class-0-bn-5/beta",
    ]


def test_two_models_in_one_checkpoint_are_refused() -> None:
    names = [f"{root}/class_net/classes/bias{VALUE_SUFFIX}" for root in ("student", "teacher")]
    with pytest.raises(InputError, match="expected one model in the checkpoint, found 2, below 'student/', 'teacher/'"):
        dialects.translate_object(names, ObjectGraph())


def test_a_path_that_contradicts_the_saved_name_is_refused() -> None:
    key = "class_net/conv_ops/0/bias" + VALUE_SUFFIX
    graph = ObjectGraph(full_names={key: "class_net/class-1/bias"})
    with pytest.raises(InputError, match="expected class_net/conv_ops/0/bias.* found it saved as class_net/class-1"):
        dialects.translate_object([key], graph)


def test_two_raw_names_of_one_variable_are_refused() -> None:
    names = ["a/efficientnet-b0/stem/conv2d/kernel:0", "a/efficientnet-b0/stem_1/conv2d_1/kernel:0"]
    with pytest.raises(InputError, match="expected one tensor for efficientnet-b0/stem/conv2d/kernel, found two"):
        dialects.translate_h5(names)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class_net/class-0/bias/Momentum", "optimizer slot"),
        ("class_net/class-0/bias/Adam_1", "optimizer slot"),
        ("class_net/class-0/bias/RMSProp_1", "optimizer slot"),
        ("class_net/class-0/bias/MyOptimizer", "optimizer slot"),
        ("beta1_power", "optimizer state"),
        ("global_step", "step counter"),
        ("moving_normalizer/ExponentialMovingAverage", "moving average of the training loss"),
    ],
)
def test_training_state_of_tf1_is_ignored_by_name(name: str, reason: str) -> None:
    assert dialects.translate_tf1([name]).ignored == {name: reason}


@pytest.mark.parametrize(
    "name",
    ["class_net/class-0/kernels", "conv/kernel", "outer/class_net/class-0/bias", "efficientnet-b0/head/conv2d/kernel"],
)
def test_other_tf1_names_are_unknown(name: str) -> None:
    assert dialects.translate_tf1([name]).unknown == [name]


@pytest.mark.parametrize(
    "content", [b"\x0a", b"\x0a\x04\x0a\x02\x08\x05", b"\x08\x01", b"\x0a\x03\x0a\x01\xff", b"\x0b"]
)
def test_a_damaged_object_graph_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="the graph: expected .*, found .*; copy or download"):
        parse_object_graph(content, "the graph")


def test_children_by_path() -> None:
    graph = ObjectGraph(children=[{"a": 1}, {"0": 2}, {}])
    assert graph.child_names("a") == ["0"] and graph.child_names("") == ["a"] and graph.child_names("b") is None
    assert unescape("a.Sb..c") == "a/b.c"
