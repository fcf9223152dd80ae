"""The config.yaml of a training: what google/automl's trainers write, and when it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.synthetic import synthetic_value, write_synthetic_checkpoint
from effdet_model import InputError, get_config
from effdet_model.hparams import parse_hparams
from effdet_model.weights import read_metadata, read_state_dict
from porting.official.obtain import obtain
from porting.official.training_config import find_config

# As tf2/train.py leaves it, for a lite0 with 90 classes that was trained without moving averages.
TRAINED: dict[str, Any] = {
    "act_type": "relu6", "anchor_scale": 3.0, "aspect_ratios": [1.0, 2.0, 0.5], "backbone_config": None,
    "backbone_name": "efficientnet-lite0", "batch_size": 2, "box_class_repeats": 3, "debug": False,
    "fpn_cell_repeats": 3, "fpn_config": None, "fpn_name": None, "fpn_num_filters": 64, "fpn_weight_method": "sum",
    "heads": ["object_detection"], "image_size": (96, 160), "label_map": None, "mean_rgb": 127.0, "stddev_rgb": 128.0,
    "moving_average_decay": 0, "name": "efficientdet-lite0", "num_classes": 90, "steps_per_execution": 1,
    "strategy": "", "survival_prob": None, "tf_random_seed": None, "val_json_file": None, "scale_range": False,
    "nms_configs": {
        "iou_thresh": None, "max_nms_inputs": 0, "max_output_size": 7, "method": "gaussian", "pyfunc": False,
        "score_thresh": 0.0, "sigma": None,
    },
}  # fmt: skip


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as training leaves it: checkpoint and config.yaml."""
    write_synthetic_checkpoint("lite0", tmp_path / "model_dir")
    text = yaml.dump(TRAINED)
    assert "!!python/tuple" in text
    (tmp_path / "model_dir" / "config.yaml").write_text(text)
    return tmp_path / "model_dir"


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "cli.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def test_convert_takes_it_with_auto(trained: Path, tmp_path: Path, repository: Path) -> None:
    output = tmp_path / "lite0.pth"
    how = ("--checkpoint", str(trained), "--hparams", "auto", "--output", str(output), "--json")
    done = run(repository, "convert", *how)
    assert done.returncode == 0, done.stderr
    metadata = read_metadata(output)
    assert metadata is not None and metadata["config"]["image_size"] == [96, 160]
    assert metadata["config"]["nms_configs"]["max_output_size"] == 7
    kernel = synthetic_value("efficientnet-lite0/stem/conv2d/kernel", (3, 3, 3, 32))
    raw = read_state_dict(output)["backbone.conv_stem.weight"].numpy()
    assert metadata["source"]["variables"] == "raw" and (raw != kernel.transpose(3, 2, 0, 1)).any()
    assert f"hyperparameters of the training from {trained / 'config.yaml'}" in json.loads(done.stdout)["notes"]


def test_convert_names_it_and_what_no_checkpoint_tells(trained: Path, tmp_path: Path, repository: Path) -> None:
    output = tmp_path / "lite0.pth"
    done = run(repository, "convert", "--checkpoint", str(trained), "--output", str(output))
    said = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "no checkpoint tells act_type, survival_prob, conv_after_downsample, aspect_ratios" in said
    assert "lies beside the checkpoint and was not used; --hparams auto takes it" in said
    metadata = read_metadata(output)
    assert metadata is not None and metadata["config"]["image_size"] == [320, 320]
    assert metadata["source"]["variables"] == "ema"


def test_what_obtain_hands_on(trained: Path) -> None:
    found = obtain("auto", str(trained), hparams="auto")
    assert found.variant == "lite0" and found.moving_average_decay == 0.0
    assert found.overrides["image_size"] == (96, 160) and found.hparams == found.overrides
    assert obtain("auto", str(trained)).moving_average_decay is None
    assert obtain("lite0", str(trained), hparams="moving_average_decay=0.9").moving_average_decay == 0.9
    (trained / "config.yaml").write_text("name: mine\nnum_classes: 90\n")
    assert obtain("auto", str(trained), hparams="auto").variant == "auto"


def test_where_it_is_looked_for(trained: Path) -> None:
    config = trained / "config.yaml"
    assert find_config(trained) == find_config(trained / "model") == find_config(trained / "checkpoint") == config
    (trained / "archive").mkdir()
    (trained / "other").mkdir()
    (trained / "model.tar.gz").touch()
    assert find_config(trained / "archive") == find_config(trained / "archive" / "ckpt-3") == config
    assert find_config(trained / "other") is None and find_config(trained / "model.tar.gz") is None


def test_auto_without_one(trained: Path, tmp_path: Path) -> None:
    (trained / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"--hparams auto: expected config.yaml in the folder of .*model_dir"):
        obtain("lite0", str(trained), hparams="auto")
    for checkpoint in (None, "https://example.org/model.tar.gz"):
        with pytest.raises(InputError, match="--hparams auto: expected --checkpoint with the folder or prefix"):
            obtain("lite0", checkpoint, hparams="auto", offline=True)
    with pytest.raises(InputError, match="--hparams auto: expected --checkpoint"):
        parse_hparams("auto")


@pytest.mark.parametrize(("name", "classes", "decay"), [("tf1_main", 3, 0.9998), ("tf2_train", 1, 0.0)])
def test_files_of_the_official_trainers(name: str, classes: int, decay: float, shared: Path) -> None:
    parsed = parse_hparams(str(shared / "cases" / "trainer_config_yaml" / f"{name}.yaml"))
    assert parsed.moving_average_decay == decay and parsed.name == "efficientdet-d0"
    assert get_config("d0", **parsed.fields) == get_config("d0", num_classes=classes, image_size=(96, 160))
