"""The diff of files: checkpoint and weights end to end, any import order, foreign references, wrong options."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from effdet_model import InputError
from porting.checkpoint.write_tensorbundle import write_checkpoint
from porting.convert import convert
from tests.conftest import REPOSITORY
from tests.verify.diff_cases import SMALL, hparams_of, sound_d0
from verify.diff.options import DiffOptions
from verify.diff.run import run_diff


class Files(NamedTuple):
    checkpoint: Path
    weights: Path
    raw_weights: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A TensorFlow checkpoint of a small model with raw values and moving averages, and its conversions."""
    folder = tmp_path_factory.mktemp("files")
    source = sound_d0()[1]
    tensors = [
        (f"{name}{suffix}", source.read(name, kind))
        for name in source.variables
        for kind, suffix in (("raw", ""), ("ema", "/ExponentialMovingAverage"))
    ]
    write_checkpoint(folder / "model", tensors)
    found = Files(folder, folder / "small.safetensors", folder / "raw.pth")
    convert(folder, found.weights, "d0", overrides={**SMALL, "image_size": (64, 64)})
    convert(folder, found.raw_weights, "d0", variables="raw", overrides={**SMALL, "image_size": (64, 64)})
    return found


def test_files_end_to_end(files: Files, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.random.RandomState(3).randint(0, 256, (48, 60, 3), np.uint8)).save(image)
    options = DiffOptions(images=[image], noise_seeds=[5], dtype="float64", isolate=True, hparams=hparams_of())
    result = run_diff(files.checkpoint, files.weights, None, options)
    assert result.passed, result.verdict
    assert [(item.name, item.kind) for item in result.inputs] == [("image.png", "image"), ("noise-5", "noise")]
    assert result.variant == "d0" and result.variables == "ema" and result.image_size == (64, 64)
    assert result.environment["weights_sha256"] == hashlib.sha256(files.weights.read_bytes()).hexdigest()
    assert len(result.environment["checkpoint_sha256"]) == 64
    assert result.environment["reference_tensorflow"] and result.environment["cpu"]
    assert result.environment["seeds"] == "5"
    assert 0 < result.seconds["port"] < result.seconds["total"]


@pytest.mark.slow
def test_hparams_of_the_config_beside_the_checkpoint(files: Files, repository: Path) -> None:
    """As the official trainer writes it, with the image size and a tuple; for both commands."""
    settings = {**SMALL, "moving_average_decay": 0.9998}
    text = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (files.checkpoint / "config.yaml").write_text(f"name: efficientdet-d0\n{text}image_size: !!python/tuple [64, 64]\n")
    command = [
        sys.executable, str(repository / "cli.py"), "diff", "--checkpoint", str(files.checkpoint), "--weights",
        str(files.weights), "--hparams", "auto", "--noise", "1", "--json",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    finally:
        (files.checkpoint / "config.yaml").unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] and found["variables"] == "ema" and not found["config_differences"]


def test_raw_weights_end_to_end(files: Files) -> None:
    result = run_diff(files.checkpoint, files.raw_weights, "d0", DiffOptions(hparams=hparams_of()))
    assert result.first_divergent_layer == "backbone.stem"
    assert result.cause is not None and result.cause.kind == "moving_averages_not_used"


@pytest.mark.slow
@pytest.mark.parametrize("first", ["tensorflow", "torch", "torchvision"])
def test_whatever_was_imported_first(files: Files, first: str) -> None:
    code = (
        f"import {first}; from verify.diff.run import DiffOptions, run_diff\n"
        f"options = DiffOptions(hparams={hparams_of()!r})\n"
        f"print(run_diff({str(files.checkpoint)!r}, {str(files.weights)!r}, None, options).passed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "True"


@pytest.mark.slow
def test_a_savedmodel_is_run_on_request_with_a_warning(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A SavedModel that answers with zeros of the heads' shapes: everything is compared, and nothing agrees."""
    code = (
        "import sys, tensorflow as tf\n"
        "class Zeros(tf.Module):\n"
        "    @tf.function(input_signature=[tf.TensorSpec([None, 64, 64, 3], tf.float32)])\n"
        "    def predict(self, images):\n"
        "        sizes = (8, 4, 2, 1, 1)\n"
        "        return [tf.ones([1, s, s, c]) for c in (27, 36) for s in sizes]\n"
        "m = Zeros(); tf.saved_model.save(m, sys.argv[1], signatures={'predict': tf.function(\n"
        "    lambda images: {f'output_{i}': x for i, x in enumerate(m.predict(images))},\n"
        "    input_signature=[tf.TensorSpec([None, 64, 64, 3], tf.float32)])})\n"
    )
    folder = tmp_path / "saved"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True)
    options = DiffOptions(reference=f"savedmodel:{folder}", hparams=hparams_of())
    result = run_diff(files.checkpoint, files.weights, None, options)
    assert "is a program" in caplog.text
    assert [layer.name for layer in result.layers] == [
        f"{net}.predict.level.{level}" for net in ("class_net", "box_net") for level in range(3, 8)
    ]
    assert result.first_divergent_layer == "class_net.predict.level.3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DiffOptions(dtype="float16"), "dtype"),
        (DiffOptions(variables="both"), "variables"),
        (DiffOptions(reference="keras"), "reference"),
        (DiffOptions(reference="automl"), "automl:DIR"),
        (DiffOptions(reference="savedmodel:nowhere"), "nowhere"),
        (DiffOptions(reference="tflite:nowhere.tflite"), "tflite:FILE"),
        (DiffOptions(reference=f"tflite:{__file__}"), "TFLite model"),
        (DiffOptions(tolerance=-1.0), "tolerance"),
        (DiffOptions(reference="automl:tests", dtype="float64"), "float32"),
        (DiffOptions(reference="automl:tests", isolate=True), "isolate"),
    ],
)
def test_wrong_options(options: DiffOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_diff("nowhere", "nowhere.pth", "d0", options)
