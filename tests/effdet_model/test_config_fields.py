"""Every value that a config, --hparams or a weight file's metadata may name is of its type and within its range."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from effdet_model import EfficientDetConfig, InputError, create_model, get_config
from effdet_model.hparams import parse_hparams

WRONG_PAIRS = [
    ("num_classes=a", "--hparams num_classes: expected a whole number from 1 to 10000, found 'a'"),
    ("num_classes=2.5", "--hparams num_classes: expected a whole number"),
    ("image_size=1e400", "--hparams image_size: expected WIDTHxHEIGHT or one number, found inf"),
    ("image_size=512.9", "--hparams image_size: expected WIDTHxHEIGHT or one number, found 512.9"),
    ("image_size=1000000", "with whole numbers from 1 to 8192"),
    ("nms_configs=foo", "--hparams nms_configs: expected a mapping with keys such as method, iou_thresh"),
    ("nms_configs=hard", "--hparams nms_configs: expected a mapping"),
    ("nms_configs.iou_threshold=0.5", "unknown key of --hparams nms_configs: 'iou_threshold'. Did you mean iou_thresh"),
    ("nms_configs.method=foo", "--hparams nms_configs.method: expected one of hard, gaussian, linear, diou, or null"),
    ("nms_configs.max_output_size=2.5", "--hparams nms_configs.max_output_size: expected a whole number"),
    ("fpn_config=foo", "--hparams fpn_config: expected a mapping"),
    ("fpn_config=3", "--hparams fpn_config: expected a mapping"),
    ("fpn_name=3", "--hparams fpn_name: expected a name such as bifpn"),
    ("fpn_name=5", "--hparams fpn_name: expected a name such as bifpn"),
    ("backbone_name=5", "--hparams backbone_name: expected the name of a model of timm or google/automl"),
    ("survival_prob=a", "--hparams survival_prob: expected a number from 0 to 1, or null, found 'a'"),
    ("act_type=identity", "--hparams act_type: expected one of silu, swish"),
    ("scale_range=no", "--hparams scale_range: expected true or false, found 'no'"),
    ("stddev_rgb=0", "--hparams stddev_rgb: expected one number, or one per channel .* above 0, found 0"),
    ("fpn_cell_repeats=1000000000", "--hparams fpn_cell_repeats: expected a whole number from 1 to 32, found 1000"),
    ("label_map=[1,2]", "expected key=value, found "),
    ("label_map=cocoo", "unknown --hparams label_map: 'cocoo'. Did you mean coco"),
    ("moving_average_decay=2", "--hparams moving_average_decay: expected a number from 0"),
    ("mean_rgb=a", "--hparams mean_rgb: expected one number"),
    ("aspect_ratios=0*1", "--hparams aspect_ratios: expected positive numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG_PAIRS)
def test_wrong_hyperparameters_are_one_message(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_hparams(text)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("nms_configs: null", "--hparams nms_configs: expected a mapping"),
        ("label_map: [a, b]", "--hparams label_map: expected category ids with their names"),
        ("image_size: .inf", "--hparams image_size: expected"),
        ("image_size: !!python/object/apply:os.getcwd []", "expected YAML, found: could not determine a constructor"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnum_classes: *b", "unknown hparams key: 'a'"),
        ("num_classes: 2019-01-01", "--hparams num_classes: expected a whole number"),
    ],
)
def test_wrong_yaml_is_one_message(tmp_path: Path, yaml: str, message: str) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(yaml)
    with pytest.raises(InputError, match=message):
        parse_hparams(str(path))


def test_labels_are_kept_as_they_are_written(tmp_path: Path) -> None:
    """YAML 1.1 would read off as false and a date as a date."""
    path = tmp_path / "h.yaml"
    path.write_text("label_map: {1: off, 3: yes, 13: 10, 62: null, 90: 2020-01-01}\nmoving_average_decay: 0\n")
    parsed = parse_hparams(str(path))
    assert get_config("d0", **parsed.fields).label_map == {1: "off", 3: "yes", 13: "10", 90: "2020-01-01"}
    assert parsed.moving_average_decay == 0.0
    assert parse_hparams("moving_average_decay=0.9998").moving_average_decay == 0.9998
    assert parse_hparams("num_classes=3").moving_average_decay is None


def test_a_label_map_file_is_read_at_once(tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("1: cup\n2: bowl\n")
    (tmp_path / "h.yaml").write_text("label_map: labels.yaml\n")
    named = parse_hparams(str(tmp_path / "h.yaml")).fields
    config = get_config("d0", label_map=str(labels))
    labels.unlink()
    assert named["label_map"] == config.label_map == {1: "cup", 2: "bowl"}
    assert EfficientDetConfig.from_dict(json.loads(json.dumps(config.to_dict()))).label_map == {1: "cup", 2: "bowl"}


def test_the_configuration_that_the_official_trainer_writes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "name: efficientdet-d0\nimage_size: !!python/tuple\n- 96\n- 160\nheads:\n- object_detection\n- segmentation\n"
        "backbone_config: null\ndebug: false\nsteps_per_execution: 1\ntf_random_seed: 7\nmoving_average_decay: 0.9998\n"
        "mean_rgb:\n- 123.675\n- 116.28\n- 103.53\nnum_classes: 3\nnms_configs: {method: gaussian, sigma: null}\n"
    )
    parsed = parse_hparams(str(path))
    config = get_config("d0", **parsed.fields)
    assert (config.image_size, config.num_classes, parsed.name) == ((96, 160), 3, "efficientdet-d0")


def write_safetensors(path: Path, metadata: str) -> Path:
    header = json.dumps({"__metadata__": {"effdet_port": metadata}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def header(**config: Any) -> str:
    return json.dumps({"format_version": 1, "config": {**get_config("d0").to_dict(), **config}})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (header(backbone_args={"checkpoint_path": "evil.pkl"}), "backbone_args: 'checkpoint_path'"),
        (header(backbone_args={"pretrained": True}), "backbone_args: 'pretrained'"),
        (header(backbone_name="hf-hub:evil/model"), "config backbone_name: expected the name of a model of timm"),
        (header(backbone_name="local-dir:/tmp/x"), "config backbone_name: expected the name of a model of timm"),
        (header(label_map="/etc/passwd.yaml"), "config label_map: .* which is not read from here"),
        (header(fpn_cell_repeats=10**9), "config fpn_cell_repeats: expected a whole number from 1 to 32"),
        (header(num_classes=10**7), "config num_classes: expected a whole number from 1 to 10000"),
        (header(num_clases=3), "config field: 'num_clases'"),
        ('{"format_version": 1, "config": null}', "config fields with their values"),
        ("[" * 100_000, "expected metadata in JSON, found"),
        ('{"format_version": ' + "9" * 5000 + "}", "expected metadata in JSON, found: .*5000 digits"),
        ("[1]", "expected metadata as a JSON object, found a list"),
    ],
)
def test_hostile_headers_make_nothing(tmp_path: Path, metadata: str, message: str) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", metadata)
    with pytest.raises(InputError, match=message) as caught:
        create_model(weights=path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("name", "classes", "decay"), [("tf1_main.yaml", 3, 0.9998), ("tf2_train.yaml", 1, 0.0)])
def test_stored_configurations_of_the_official_trainer(name: str, classes: int, decay: float, shared: Path) -> None:
    parsed = parse_hparams(str(shared / "cases" / "trainer_config_yaml" / name))
    config = get_config("d0", **parsed.fields)
    assert (config.image_size, config.num_classes, parsed.moving_average_decay) == ((96, 160), classes, decay)
