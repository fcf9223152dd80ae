"""The reference's own configuration: google/automl's facts, the user's words, and every difference from the port's."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.planted_faults import FALSIFIED
from effdet_model import InputError, get_config
from effdet_model.variants import OFFICIAL_VARIANTS
from porting.official.catalog import catalog, config_overrides
from tests.conftest import REPOSITORY
from verify.reference.configuration.config_check import config_differences
from verify.reference.configuration.facts import DEFAULTS, TRAINING, VARIANTS
from verify.reference.configuration.official import reference_config

PAIRS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))


@pytest.mark.parametrize("variant", OFFICIAL_VARIANTS)
def test_two_tables_agree_on_every_variant(variant: str) -> None:
    """The port's table and the reference's were written apart; where both are right they say the same."""
    assert config_differences(reference_config(variant), get_config(variant).to_dict()) == []


@pytest.mark.parametrize("entry", catalog(), ids=lambda entry: f"{entry.variant}-{entry.family}")
def test_two_tables_agree_on_every_release(entry: Any) -> None:
    port = get_config(entry.variant, **config_overrides(entry)).to_dict()
    reference = reference_config(entry.variant, family=entry.family)
    assert config_differences(reference, port) == []
    old = entry.family in ("coco", "coco2", "coco640")
    assert reference["aspect_ratios"] == ([list(pair) for pair in PAIRS] if old else [1.0, 2.0, 0.5])
    assert reference["scale_range"] is (entry.family == "advprop")


def test_the_facts_come_from_nowhere_else() -> None:
    """The reference's configuration imports nothing of the port but the class of its errors."""
    for name in ("facts", "official"):
        tree = ast.parse((REPOSITORY / "verify" / "reference" / "configuration" / f"{name}.py").read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        rooms = {module for module in modules if module.split(".")[0] in ("effdet_model", "mappings", "porting")}
        assert rooms <= {"effdet_model.errors"}


ANCHOR_FIELDS = {"min_level", "max_level", "num_scales", "aspect_ratios", "anchor_scale"}


def test_every_field_of_the_config_is_falsified() -> None:
    assert set(FALSIFIED) == set(get_config("d0").to_dict()) - {"name"}


@pytest.mark.parametrize("field", FALSIFIED)
def test_every_falsified_field_is_named(field: str) -> None:
    port = {**get_config("d0").to_dict(), **get_config("d0").replace(**{field: FALSIFIED[field]}).to_dict()}
    found = config_differences(reference_config("d0"), port)
    also = {"anchors"} if field in ANCHOR_FIELDS else {"norm_kwargs"} if field == "norm_layer" else set()
    names = {difference.field for difference in found}
    assert field in names and names <= {field} | also, names
    assert ("anchors" in names) == (field in ANCHOR_FIELDS)
    assert not any(difference.declared for difference in found)
    declared = config_differences(reference_config("d0"), port, [field])
    assert [difference.declared for difference in declared if difference.field != "norm_kwargs"] == [True] * len(
        [name for name in names if name != "norm_kwargs"]
    )


@pytest.mark.parametrize("shift", [1e-6, -1e-3])
def test_anchors_are_compared_value_by_value(monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    """A mistake in the port's anchor code shows although all fields agree."""
    import effdet_model.anchors as anchors

    sound = anchors.generate_anchors

    def shifted(*args: Any) -> Any:
        boxes = sound(*args)
        boxes[7, 2] += shift * 100
        return boxes

    monkeypatch.setattr(anchors, "generate_anchors", shifted)
    found = config_differences(reference_config("d0"), get_config("d0").to_dict())
    assert [difference.field for difference in found] == ["anchors"]
    assert found[0].port[2] - found[0].reference[2] == pytest.approx(shift * 100, rel=0.2)


SAME = [
    {"act_type": "silu"}, {"act_type": "swish_native"}, {"anchor_scale": (4,) * 5}, {"anchor_scale": 4},
    {"fpn_name": "bifpn_dyn"}, {"fpn_weight_method": "fastattn"}, {"fpn_name": "bifpn_fa"}, {"survival_prob": 0.0},
    {"aspect_ratios": (1, (2**0.5, 1 / 2**0.5), 0.5)}, {"nms_configs": {"iou_thresh": 0.5, "sigma": 0.5}},
    {"head_act_type": "silu"}, {"backbone_args": {"drop_path_rate": 0.4}},
]  # fmt: skip


@pytest.mark.parametrize("overrides", SAME, ids=str)
def test_other_words_for_the_same_are_no_difference(overrides: dict[str, Any]) -> None:
    assert config_differences(reference_config("d0"), get_config("d0", **overrides).to_dict()) == []


def test_one_mean_is_three_equal_means() -> None:
    port = get_config("lite0", mean_rgb=(127, 127, 127), stddev_rgb=(128.0,)).to_dict()
    assert config_differences(reference_config("lite0"), port) == []


def test_hparams_are_read_as_google_reads_them(tmp_path: Path) -> None:
    text = "num_classes=20,aspect_ratios=1.0*2.0,image_size=640x384,nms_configs.method=hard,act_type=relu,momentum=0.8"
    found = reference_config("efficientdet-d0", hparams=text)
    assert (found["num_classes"], found["aspect_ratios"], found["image_size"]) == (20, [1.0, 2.0], [384, 640])
    assert found["nms_configs"] == {**DEFAULTS["nms_configs"], "method": "hard"} and found["act_type"] == "relu"
    assert "momentum" not in found and found["name"] == "efficientdet-d0"
    path = tmp_path / "own.yaml"
    path.write_text("aspect_ratios: [[1.0, 1.0], [1.4, 0.7]]\nscale_range: true\nsurvival_prob: null\n")
    found = reference_config("tf_efficientdet_d0", hparams=str(path))
    assert found["aspect_ratios"] == [[1.0, 1.0], [1.4, 0.7]] and found["scale_range"] is True
    assert reference_config("d0", hparams={"anchor_scale": 3.0})["anchor_scale"] == 3.0


def test_classes_and_anchors_come_from_the_file() -> None:
    shapes = {"class_net/class-predict/bias": (9 * 7,), "box_net/box-predict/bias": (36,)}
    assert reference_config("d0", shapes=shapes)["num_classes"] == 7
    with pytest.raises(InputError, match="63 class channels.*correct num_classes"):
        reference_config("d0", shapes=shapes, hparams="num_classes=8")
    fewer = {**shapes, "box_net/box-predict/bias": (24,)}
    with pytest.raises(InputError, match="expected 9 anchors.*found 24 box channels, that is 6 anchors; say with"):
        reference_config("d0", shapes=fewer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "d9"}, "unknown variant of google/automl: 'd9'"),
        ({"variant": "d6_ap"}, "unknown variant of google/automl: 'd6_ap'"),
        ({"variant": "d0", "family": "coco3"}, "unknown family: 'coco3'"),
        ({"variant": "d7x", "family": "advprop"}, "family advprop: expected one of its models"),
        ({"variant": "d2_640", "family": "coco2"}, "found efficientdet-d2 of family coco640"),
        ({"variant": "d0", "hparams": "num_clases=3"}, "unknown hparams key: 'num_clases'. Did you mean num_classes"),
        ({"variant": "d0", "hparams": "image_size=big"}, "expected a number or WIDTHxHEIGHT, found 'big'"),
        ({"variant": "d0", "hparams": "nowhere.yaml"}, "expected a YAML file or key=value"),
    ],
)
def test_wrong_words_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reference_config(**arguments)


AUTOML = os.environ.get("EFFDET_PORT_AUTOML")
_READ_CLONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import hparams_config
names = json.loads(sys.argv[2])
print(json.dumps({name: hparams_config.get_efficientdet_config(name).as_dict() for name in names}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not AUTOML, reason="EFFDET_PORT_AUTOML names no clone of google/automl")
def test_the_facts_are_those_of_a_clone() -> None:
    clone = Path(AUTOML or "")
    folder = clone / "efficientdet" if (clone / "efficientdet").is_dir() else clone
    command = [sys.executable, "-c", _READ_CLONE, str(folder), json.dumps(list(VARIANTS))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, official in found.items():
        assert {**DEFAULTS, **VARIANTS[name]} == {key: official[key] for key in DEFAULTS}, name
        assert set(official) == set(DEFAULTS) | TRAINING, name
