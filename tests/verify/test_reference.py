"""The TensorFlow reference equals the official model, and its process fails with one clear message."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from effdet_model import InputError, get_config
from tests.verify.diff_cases import deterministic_value, make_source, small_config
from verify.diff.comparison import assert_close
from verify.reference.backbone import SCALING, blocks
from verify.reference.fpn import nodes
from verify.reference.process import ReferenceProcess

OFFICIAL = Path(__file__).parents[1] / "data" / "official_outputs.npz"


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceProcess]:
    with ReferenceProcess() as process:
        yield process


def official_cases() -> list[str]:
    with np.load(OFFICIAL) as stored:
        return sorted({name.split("|")[0] for name in stored.files})


@pytest.mark.parametrize("case", official_cases())
def test_equals_outputs_of_the_official_model(reference: ReferenceProcess, case: str) -> None:
    """google/automl's own outputs, stored by tests/data/make_official_outputs.py."""
    with np.load(OFFICIAL) as stored:
        settings = json.loads(str(stored[f"{case}|settings"]))
        expected = {name.split("|")[1]: stored[name] for name in stored.files if name.startswith(f"{case}|")}
    config = small_config(settings["variant"], image_size=settings["image_size"], **settings["overrides"])
    images = official_input(settings["image_size"])
    reference.open(config.to_dict(), make_source_reader(config))
    found = {layer.name: layer.output for layer in reference.layers(images)}
    for name in expected:
        if name != "settings":
            assert_close(name, expected[name], found[name], 5e-6)


def official_input(image_size: list[int]) -> np.ndarray:
    return np.random.RandomState(7).standard_normal((1, *image_size, 3)).astype(np.float32)


def make_source_reader(config: Any) -> Any:
    source = make_source(config)
    return lambda name: source.read(name, "ema")


@pytest.mark.parametrize("name", ["d0_128", "lite0_160", pytest.param("d7x_256", marks=pytest.mark.slow)])
def test_equals_the_golden_outputs(reference: ReferenceProcess, shared: Path, name: str) -> None:
    tool = load_make_checkpoint(shared)
    meta = json.loads((shared / "golden" / f"{name}.json").read_text())
    golden = np.load(shared / "golden" / f"{name}.npz")
    shapes = {variable: tuple(shape) for variable, shape in meta["variables"]}
    config = get_config(meta["model"], **meta["hparams"])
    reference.open(config.to_dict(), lambda variable: tool.value(variable, shapes[variable]))
    used: set[str] = set()
    for layer in reference.layers(tool.golden_input(*meta["image_size"])):
        used.update(layer.variables)
        if ".predict.level." in layer.name:
            net, level = layer.name.split("_net.predict.level.")
            stored = golden[f"{net}_{level}"]
            assert_close(layer.name, stored, layer.output[0], 5e-6)
    assert used == set(shapes)


def test_equals_the_golden_batch_norms(shared: Path) -> None:
    """In a process of its own, since batch norms are seen only where TensorFlow runs."""
    command = [sys.executable, "-m", "tests.verify.golden_batch_norms", str(shared), "d0_128", "lite0_160"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    for line in done.stdout.splitlines():
        name, count, worst = line.split()
        assert int(count) == 108, name
        assert float(worst) < 1e-5, name


def load_make_checkpoint(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_checkpoint", shared / "golden" / "make_checkpoint.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AUTOML = os.environ.get("EFFDET_PORT_AUTOML")


@pytest.mark.slow
@pytest.mark.skipif(not AUTOML, reason="EFFDET_PORT_AUTOML names no clone of google/automl")
@pytest.mark.parametrize("overrides", [{"fpn_name": "qufpn"}, {"fpn_weight_method": "channel_attn"}])
def test_equals_a_clone_of_the_official_model(reference: ReferenceProcess, overrides: dict[str, Any]) -> None:
    config = small_config(**overrides)
    images = official_input([64, 64])
    with ReferenceProcess("automl", Path(AUTOML or "")) as official:
        official.open(config.to_dict(), make_source_reader(config))
        expected = {layer.name: layer.output for layer in official.layers(images)}
    reference.open(config.to_dict(), make_source_reader(config))
    found = {layer.name: layer.output for layer in reference.layers(images)}
    assert len(expected) > 60
    for name, output in expected.items():
        assert_close(name, output, found[name], 5e-6)


def test_double_precision_agrees_with_single(reference: ReferenceProcess) -> None:
    config = small_config()
    images = official_input([64, 64])
    outputs = {}
    for dtype in ("float32", "float64"):
        reference.open(config.to_dict(), make_source_reader(config), dtype)
        outputs[dtype] = {layer.name: layer.output for layer in reference.layers(images)}
    for name, output in outputs["float64"].items():
        assert output.dtype == np.float64
        assert_close(name, output, outputs["float32"][name], 5e-6)


def test_layers_come_in_the_order_of_the_model(reference: ReferenceProcess) -> None:
    config = small_config(fpn_name="qufpn")
    reference.open(config.to_dict(), make_source_reader(config))
    names = [layer.name for layer in reference.layers(official_input([64, 64]))]
    assert names[:3] == ["backbone.stem", "backbone.blocks.0.0", "backbone.blocks.1.0"]
    nodes_seen = [name for name in names if name.startswith("fpn.cell.0.")]
    assert nodes_seen == [f"fpn.cell.0.fnode.{i}" for i in range(21)]
    assert names[-3:] == [f"box_net.{layer}.level.7" for layer in ("conv_rep.0", "conv_rep.1", "predict")]


def test_backbones_have_the_official_number_of_blocks() -> None:
    counts = {name: len(blocks(f"efficientnet-{name}")) for name in SCALING}
    assert counts["b0"] == counts["lite0"] == 16
    assert (counts["b1"], counts["b3"], counts["b6"], counts["b7"]) == (23, 26, 45, 55)
    assert (counts["lite1"], counts["lite2"], counts["lite3"], counts["lite4"]) == (21, 21, 24, 30)
    assert [block.reduction for block in blocks("efficientnet-b0") if block.reduction] == [1, 2, 3, 4, 5]


def test_quad_row_is_numbered_coarsest_first_in_tensorflow() -> None:
    config = small_config(fpn_name="qufpn").to_dict()
    last = nodes(config)[-5:]
    assert [node.level for node in last] == [7, 6, 5, 4, 3]
    assert [node.number for node in last] == [16, 17, 18, 19, 20]
    assert [node.stable for node in last] == [20, 19, 18, 17, 16]
    assert [node.inputs for node in last] == [(12, 16), (11, 17), (10, 18), (9, 19), (8, 20)]


def test_probe_computes_one_layer_with_each_mistake(reference: ReferenceProcess) -> None:
    config = small_config()
    images = official_input([64, 64])
    reference.open(config.to_dict(), make_source_reader(config))
    sound = next(layer.output for layer in reference.layers(images) if layer.name == "backbone.blocks.1.0")
    faults = ["batch_norm_epsilon_1e-05", "batch_norm_epsilon_1e-05@2", "skip_missing", "resize_bilinear"]
    found = {layer.name: layer.output for layer in reference.probe(images, "backbone.blocks.1.0", faults)}
    assert list(found) == faults
    assert np.array_equal(found["resize_bilinear"], sound)
    assert not np.allclose(found["batch_norm_epsilon_1e-05"], sound, rtol=1e-5, atol=0)
    assert not np.array_equal(found["batch_norm_epsilon_1e-05@2"], found["batch_norm_epsilon_1e-05"])


def open_small(process: ReferenceProcess, **overrides: Any) -> None:
    config = small_config(**overrides)
    process.open(config.to_dict(), make_source_reader(config))


def test_missing_tensorflow_gives_an_install_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ModuleNotFoundError('No module named tensorflow')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ReferenceProcess() as process, pytest.raises(InputError, match=r'pip install "effdet-port\[verify\]"'):
        open_small(process)
        list(process.layers(official_input([64, 64])))


def test_broken_tensorflow_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("raise OSError('libcuda is of another version')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ReferenceProcess() as process, pytest.raises(InputError, match="libcuda is of another version"):
        open_small(process)
        list(process.layers(official_input([64, 64])))


def test_a_crash_is_one_message() -> None:
    with ReferenceProcess() as process, pytest.raises(InputError, match="signal 9.*memory"):
        open_small(process)
        for _ in process.layers(official_input([64, 64])):
            process._process.send_signal(signal.SIGKILL)


def test_a_missing_variable_is_said_by_the_source() -> None:
    config = small_config()

    def read(name: str) -> np.ndarray:
        raise InputError(f"no variable {name}")

    with ReferenceProcess() as process, pytest.raises(InputError, match="stem/conv2d/kernel"):
        process.open(config.to_dict(), read)
        list(process.layers(official_input([64, 64])))


def test_an_impossible_image_size_is_one_message(reference: ReferenceProcess) -> None:
    with ReferenceProcess() as process, pytest.raises(InputError, match="cannot become 1 x 1.*--image-size"):
        open_small(process)
        list(process.layers(official_input([64, 96])))


def test_a_run_left_early_does_not_disturb_the_next(reference: ReferenceProcess) -> None:
    open_small(reference)
    images = official_input([64, 64])
    assert next(iter(reference.layers(images))).name == "backbone.stem"
    open_small(reference, fpn_name="qufpn")
    assert sum(1 for _ in reference.layers(images)) == 1 + 16 + 5 + 2 * 21 + 2 * 5 * 3


def test_leaving_early_ends_the_process() -> None:
    with ReferenceProcess() as process:
        open_small(process)
        next(iter(process.layers(official_input([64, 64]))))
    assert process._process.poll() is not None


def test_deterministic_values_never_change() -> None:
    values = deterministic_value("efficientnet-b0/stem/conv2d/kernel", (3, 3, 3, 32))
    assert values.dtype == np.float32
    assert values.flat[0] == deterministic_value("efficientnet-b0/stem/conv2d/kernel", (3, 3, 3, 32)).flat[0]
