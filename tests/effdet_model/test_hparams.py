"""google/automl's --hparams."""

from __future__ import annotations

from pathlib import Path

import pytest

from effdet_model import InputError, get_config
from effdet_model.hparams import parse_hparams


def test_pairs() -> None:
    parsed = parse_hparams("num_classes=20,aspect_ratios=1.0*2.0*0.5,nms_configs.method=hard,learning_rate=0.1")
    assert parsed.fields == {
        "num_classes": 20, "aspect_ratios": [1.0, 2.0, 0.5], "nms_configs": {"method": "hard"},
    }  # fmt: skip
    assert parsed.ignored == ("learning_rate",)
    config = get_config("d0", **parsed.fields)
    assert config.nms_configs["method"] == "hard" and config.nms_configs["max_output_size"] == 100


def test_image_size_is_width_first_as_in_the_official_code() -> None:
    assert parse_hparams("image_size=640x384").fields == {"image_size": (384, 640)}
    assert parse_hparams("image_size=256").fields == {"image_size": (256, 256)}


def test_booleans_and_text() -> None:
    fields = parse_hparams("separable_conv=false,conv_bn_act_pattern=true,fpn_name=qufpn,survival_prob=None").fields
    assert fields == {
        "separable_conv": False, "conv_bn_act_pattern": True, "fpn_name": "qufpn", "survival_prob": None,
    }  # fmt: skip


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text("num_classes: 3\nfpn_config:\n  weight_method: sum\n  nodes:\n  - feat_level: 3\n"
                    "    inputs_offsets: [0]\naspect_ratios: [[1.0, 1.0], [1.4, 0.7]]\n")  # fmt: skip
    fields = parse_hparams(str(path)).fields
    assert fields["num_classes"] == 3 and fields["fpn_config"]["nodes"][0]["inputs_offsets"] == [0]
    config = get_config("d0", num_classes=3, aspect_ratios=fields["aspect_ratios"])
    assert config.aspect_ratios == ((1.0, 1.0), (1.4, 0.7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_clases=3", "unknown hparams key: 'num_clases'. Did you mean num_classes"),
        ("heads=segmentation", "--hparams heads: expected"),
        ("aspect_ratios=[1.0,2.0]", "separate list items by \\*"),
        ("nothing", "expected a .yaml file or key=value"),
        ("act_type=srelu", "expected an activation without variables of its own"),
        ("image_size=axb", "--hparams image_size: expected WIDTHxHEIGHT or one number, found 'axb'"),
        ("nms_configs.iou_threshold=0.5", "unknown key of --hparams nms_configs: 'iou_threshold'. Did you mean iou_t"),
        ("num_classes=a", "--hparams num_classes: expected a whole number from 1 to 10000, found 'a'; correct it"),
        ("image_size=1e400", "--hparams image_size: expected WIDTHxHEIGHT or one number, found inf; write e.g. 512"),
        ("image_size=512.9", "--hparams image_size: expected WIDTHxHEIGHT or one number, found 512.9; write e.g. 512"),
        ("nms_configs=hard", "--hparams nms_configs: expected a mapping with keys such as method, .*found 'hard'"),
        ("nms_configs.max_output_size=2.5", "--hparams nms_configs.max_output_size: expected a whole .*found 2.5"),
        ("nms_configs=3,nms_configs.method=hard", "--hparams nms_configs.method: expected nms_configs to hold keys"),
        ("fpn_config=3", "--hparams fpn_config: expected a mapping with keys such as nodes, weight_method, .*found 3"),
        ("fpn_name=3", "--hparams fpn_name: expected a name such as bifpn, qufpn, pan, found 3"),
        ("backbone_name=5", "--hparams backbone_name: expected the name of a model of timm or google/automl .*found 5"),
        ("survival_prob=a", "--hparams survival_prob: expected a number from 0 to 1, or null, found 'a'"),
        ("act_type=identity", "--hparams act_type: expected one of silu, swish, .*found 'identity'"),
        ("scale_range=no", "--hparams scale_range: expected true or false, found 'no'"),
        ("stddev_rgb=0", "--hparams stddev_rgb: expected one number, or one per channel .*above 0, found 0"),
        ("label_map=1*2", r"--hparams label_map: expected category ids with their names, found \[1, 2\]"),
        ("label_map=/nowhere.yaml", "label map /nowhere.yaml: expected a YAML file of `id: name`, found: No such file"),
        ("min_level=0", "--hparams min_level: expected a whole number from 1 to 12, found 0"),
        ("moving_average_decay=x", "--hparams moving_average_decay: expected a number from 0 to 1, found 'x'"),
        ("pooling_type=avg", "--hparams pooling_type: expected None, found 'avg'"),
        (f"num_classes={'9' * 5000}", "--hparams num_classes: expected a whole number from 1 to 10000, found '999"),
        (f"num_classes={'(' * 5000}", "--hparams num_classes: expected a whole number from 1 to 10000, found"),
        (f"num_classes={'a' * 70_000}", "--hparams: expected a .yaml file or key=value,key.sub=value, found 'num_cl"),
        (f"{'a.' * 5000}b=1", "unknown hparams key: 'a'"),
        ("/nowhere/h.yaml", "expected a YAML file, found: No such file"),
    ],
)
def test_bad_hparams(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as found:
        parse_hparams(text)
    assert len(str(found.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nms_configs: null\n", "--hparams nms_configs: expected a mapping with keys such as method, .*found None"),
        ("label_map: [cup, cat]\n", r"--hparams label_map: expected category ids .*found \['cup', 'cat'\]"),
        ("label_map: {cup: 1}\n", "--hparams label_map: expected category ids with their names, found 'cup' as an id"),
        ("- 1\n", r"expected a mapping of names to values, found \[1\]"),
        ("1: 2\n", "expected a mapping of names to values, found {1: 2}"),
        (f"num_classes: {'9' * 5000}\n", "expected YAML, found: Exceeds the limit|found an int of great length"),
        ("num_classes: !!int ''\n", "expected YAML, found"),
        ("num_classes: !!bool maybe\n", "expected YAML, found"),
        ("image_size: 2020-99-99\n", "expected YAML, found: month must be in 1..12"),
        ("alpha: " + "[" * 3000 + "\n", "expected YAML, found: data nested too deep"),
        ("alpha: " + "[" * 40 + "]" * 40 + "\n", "expected YAML, found: data nested more than 32 deep"),
        ("a: &a {}\nnum_classes: {? *a : 1}\n", "expected YAML, found"),
        ("image_size: !!python/tuple 3\n", "expected YAML, found: expected a sequence node"),
        ("image_size: !!python/name:os.system ''\n", "expected YAML, found: could not determine a constructor"),
    ],
)
def test_bad_yaml(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as found:
        parse_hparams(str(path))
    assert len(str(found.value)) < 600


def test_yaml_that_grows(tmp_path: Path) -> None:
    """Aliases of aliases and merges of merges: small files that stand for more than any memory holds."""
    path = tmp_path / "h.yaml"
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
    )
    path.write_text(laughs + "num_classes: *a19\n")
    with pytest.raises(InputError, match="unknown hparams key: 'a0'"):
        parse_hparams(str(path))
    merges = "alpha: &m0 {x: 1}\n" + "".join(f"? &m{i}\n  {{<<: [*m{i - 1}, *m{i - 1}]}}\n: 1\n" for i in range(1, 40))
    path.write_text(merges)
    with pytest.raises(InputError, match="expected YAML, found"):
        parse_hparams(str(path))


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text("#" * (5 << 20))
    with pytest.raises(InputError, match="--hparams .*h.yaml: expected at most 4 MB of text, found 5 MB"):
        parse_hparams(str(path))


def test_labels_keep_their_text(tmp_path: Path) -> None:
    """YAML 1.1 reads off and yes as booleans, 2020-01-01 as a date; an id without a name has none."""
    path = tmp_path / "h.yaml"
    path.write_text(
        "label_map: {0: background, 1: off, 3: yes, 13: 10, 44: 1.50, 62: null, 90: 2020-01-01}\n"
        "nms_configs: {method: hard, score_thresh: 0.2, max_output_size: 7}\nmoving_average_decay: 0\n"
    )
    parsed = parse_hparams(str(path))
    labels = {0: "background", 1: "off", 3: "yes", 13: "10", 44: "1.50", 90: "2020-01-01"}
    assert parsed.fields["label_map"] == labels and get_config("d0", **parsed.fields).label_map == labels
    assert parsed.moving_average_decay == 0.0
    assert parse_hparams("label_map.1=off,label_map.2=1.50,label_map.3=true").fields["label_map"] == {
        1: "off", 2: "1.50", 3: "true",
    }  # fmt: skip


def test_a_label_file_lies_beside_the_hparams_too(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("1: cup\n2: off\n")
    (tmp_path / "h.yaml").write_text("label_map: names.yaml\n")
    assert parse_hparams(str(tmp_path / "h.yaml")).fields["label_map"] == {1: "cup", 2: "off"}


def test_nulls_that_the_official_code_allows(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(
        "fpn_name: null\nfpn_config: null\nfpn_weight_method: null\nsurvival_prob: null\nlabel_map: null\n"
        "backbone_config: null\nmoving_average_decay: null\nnms_configs: {iou_thresh: null, sigma: null}\n"
    )
    parsed = parse_hparams(str(path))
    assert get_config("d0", **parsed.fields) == get_config("d0") and parsed.moving_average_decay == 0.0


@pytest.mark.parametrize("text", ["heads=object_detection", "heads=object_detection*segmentation"])
def test_heads_with_detection(text: str) -> None:
    """Text too: the official code asks whether "object_detection" is in it."""
    assert parse_hparams(text).fields == {}


def test_names_of_older_versions() -> None:
    parsed = parse_hparams("conv_bn_relu_pattern=true,use_native_resize_op=true,pooling_type=max,label_id_mapping=voc")
    assert parsed.fields == {"conv_bn_act_pattern": True, "label_map": "voc"}


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text("num_classes: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="expected YAML, found: could not determine a constructor"):
        parse_hparams(str(path))
