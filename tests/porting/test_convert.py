"""Conversion: values land where they belong, everything is accounted for, and nothing half-written stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effdet import EfficientDet as EffdetModel
from effdet.config import get_efficientdet_config

from demo.synthetic import SLOT, synthetic_tensors, synthetic_value, write_synthetic_checkpoint
from effdet_model import InputError, create_model, get_config
from effdet_model.weights import read_metadata, read_state_dict
from mappings.table import build_table
from porting.checkpoint.dialects import EMA_SUFFIX
from porting.checkpoint.write_tensorbundle import write_checkpoint
from porting.convert import convert
from porting.weights import files as weight_files

Tensors = list[tuple[str, np.ndarray]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lite0 checkpoint as a training run leaves it."""
    return write_synthetic_checkpoint("lite0", tmp_path_factory.mktemp("lite0"))


def changed(folder: Path, change: Callable[[str, np.ndarray], Iterator[tuple[str, np.ndarray]]], **how: Any) -> Path:
    """The lite0 checkpoint with every tensor passed through `change`."""
    tensors = synthetic_tensors(get_config("lite0"), **how)
    write_checkpoint(folder / "model", (new for name, value in tensors for new in change(name, value)))
    return folder / "model"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_moving_averages_land_where_they_belong(checkpoint: Path, tmp_path: Path, suffix: str) -> None:
    written = convert(checkpoint, tmp_path / f"lite0{suffix}", "lite0")
    state = read_state_dict(written.path)
    assert (written.conversion.account.kind, len(written.conversion.account.consumed)) == ("ema", 588)
    assert dict(written.conversion.account.ignored) == {
        "optimizer slot": 372, "raw value; the moving average is used": 588, "step counter": 1,
    }  # fmt: skip
    kernel = synthetic_value("efficientnet-lite0/stem/conv2d/kernel", (3, 3, 3, 32))
    np.testing.assert_array_equal(state["backbone.conv_stem.weight"].numpy(), kernel.transpose(3, 2, 0, 1))
    depthwise = synthetic_value("box_net/box-1/depthwise_kernel", (3, 3, 64, 1))
    np.testing.assert_array_equal(state["box_net.conv_rep.1.conv_dw.weight"].numpy(), depthwise.transpose(2, 3, 0, 1))
    variance = synthetic_value("class_net/class-2-bn-5/moving_variance", (64,))
    np.testing.assert_array_equal(state["class_net.bn_rep.2.2.bn.running_var"].numpy(), variance)


def test_the_metadata_name_the_suppression_that_the_config_chooses(checkpoint: Path, tmp_path: Path) -> None:
    for method, profile in (("gaussian", "numpy_gaussian"), ("hard", "numpy_hard")):
        overrides = {"nms_configs": {"method": method}}
        written = convert(checkpoint, tmp_path / f"{method}.pth", "lite0", overrides=overrides)
        assert written.conversion.metadata["nms"]["profile"] == profile


def test_raw_values_on_request(checkpoint: Path, tmp_path: Path) -> None:
    ema = read_state_dict(convert(checkpoint, tmp_path / "ema.pth", "lite0").path)
    raw = convert(checkpoint, tmp_path / "raw.pth", "lite0", variables="raw")
    assert raw.conversion.metadata["source"]["variables"] == "raw"
    state = read_state_dict(raw.path)
    assert not torch.equal(state["backbone.conv_stem.weight"], ema["backbone.conv_stem.weight"])
    assert raw.conversion.account.ignored["moving average; the raw value is used"] == 588


def test_no_moving_averages_at_all(tmp_path: Path) -> None:
    prefix = write_synthetic_checkpoint("lite0", tmp_path / "raw", ema=False, momentum=False)
    written = convert(prefix, tmp_path / "lite0.pth", "lite0")
    assert (written.conversion.account.kind, dict(written.conversion.account.ignored)) == ("raw", {"step counter": 1})
    with pytest.raises(InputError, match="expected moving averages .* of all 588 .* found 0; .* Use --variables raw"):
        convert(prefix, tmp_path / "no.pth", "lite0", variables="ema")
    assert not (tmp_path / "no.pth").exists()


def test_effdet_loads_the_file_strictly(checkpoint: Path, tmp_path: Path) -> None:
    path = convert(checkpoint, tmp_path / "lite0.pth", "lite0").path
    config = get_efficientdet_config("tf_efficientdet_lite0")
    config.image_size = (128, 128)
    theirs = EffdetModel(config, pretrained_backbone=False).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=True)
    ours = create_model("lite0", weights=path, image_size=128)
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images)[0][0], theirs(images)[0][0], rtol=0, atol=1e-4)


def test_metadata(checkpoint: Path, tmp_path: Path) -> None:
    pth = convert(checkpoint, tmp_path / "a.pth", "lite0", origin={"url": "u", "family": "lite"})
    safe = convert(checkpoint, tmp_path / "a.safetensors", "lite0", origin={"url": "u", "family": "lite"})
    beside, header = read_metadata(pth.path), read_metadata(safe.path)
    assert beside is not None and header is not None
    assert beside.pop("weights_sha256") == pth.sha256
    assert beside == header == safe.conversion.metadata
    assert beside["source"]["dialect"] == "tf1" and len(beside["source"]["sha256"]) == 64
    assert beside["preprocessing"]["mean_rgb"] == 127.0 and beside["anchors"]["anchor_scale"] == 3.0
    assert create_model(weights=safe.path).config == get_config("lite0")


def test_the_same_input_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        first = convert(checkpoint, tmp_path / f"one{suffix}", "lite0").path.read_bytes()
        assert convert(checkpoint, tmp_path / f"two{suffix}", "lite0").path.read_bytes() == first


def test_variant_is_recognised(checkpoint: Path, tmp_path: Path) -> None:
    written = convert(checkpoint, tmp_path / "x.pth")
    assert (written.conversion.config.name, written.conversion.notes) == ("lite0", ())
    d0 = write_synthetic_checkpoint("d0", tmp_path / "efficientdet-d0", ema=False, momentum=False)
    notes = convert(d0, tmp_path / "x0.pth").conversion.notes
    assert notes[0].startswith("d0, d0_ap have the same shapes; took d0, as the names around the file say")


def test_another_variant_is_named(checkpoint: Path, tmp_path: Path) -> None:
    message = "this is a lite0 checkpoint with 90 classes, you asked for d1; use --variant lite0"
    with pytest.raises(InputError, match=message):
        convert(checkpoint, tmp_path / "x.pth", "d1")
    assert list(tmp_path.iterdir()) == []


def test_classes_and_anchors_come_from_the_heads(tmp_path: Path) -> None:
    config = get_config("lite0", num_classes=7, num_scales=2)
    prefix = write_synthetic_checkpoint(config, tmp_path / "own", momentum=False)
    written = convert(prefix, tmp_path / "own.pth", "lite0")
    assert (written.conversion.config.num_classes, written.conversion.config.anchors_per_location) == (7, 6)
    assert "7 classes" in written.conversion.notes[1] and "6 anchors per location" in written.conversion.notes[0]
    assert create_model(weights=written.path).config.num_classes == 7
    with pytest.raises(InputError, match="--hparams say num_classes=90, the shape of class-predict says 7"):
        convert(prefix, tmp_path / "no.pth", "lite0", overrides={"num_classes": 90, "num_scales": 2})
    with pytest.raises(InputError, match="make 3 anchors per location, the shape of box-predict says 6"):
        convert(prefix, tmp_path / "no.pth", "lite0", overrides={"num_scales": 1})


@pytest.mark.parametrize(
    "overrides",
    [
        {"fpn_name": "qufpn", "fpn_weight_method": "attn"}, {"fpn_weight_method": "channel_fastattn"},
        {"separable_conv": False, "conv_bn_act_pattern": True}, {"apply_bn_for_resampling": False, "min_level": 2},
    ],
)  # fmt: skip
def test_custom_architectures(tmp_path: Path, overrides: dict[str, Any]) -> None:
    config = get_config("lite0", image_size=128, **overrides)
    prefix = write_synthetic_checkpoint(config, tmp_path / "own", momentum=False)
    written = convert(prefix, tmp_path / "own.pth", "lite0", overrides={"image_size": 128, **overrides})
    state = read_state_dict(written.path)
    for row in build_table(config).rows:
        if row.kind == "edge_weight":
            for place, name in enumerate(row.tensorflow_names):
                value = synthetic_value(name, row.tensorflow_shape)
                np.testing.assert_array_equal(state[row.pytorch_key][place].numpy(), value)
    with torch.inference_mode():
        outputs = create_model(weights=written.path)(torch.zeros(1, 3, 128, 128))
    assert all(torch.isfinite(out).all() for out in outputs[0])
    with pytest.raises(InputError, match="expected exactly the variables of lite0, found"):
        convert(prefix, tmp_path / "no.pth", "lite0")


def drop(wanted: str) -> Callable[[str, np.ndarray], Iterator[tuple[str, np.ndarray]]]:
    return lambda name, value: iter([(name, value)] * (name.removesuffix(EMA_SUFFIX).removesuffix(SLOT) != wanted))


def test_missing_variable(tmp_path: Path) -> None:
    prefix = changed(tmp_path, drop("box_net/box-0/bias"))
    with pytest.raises(InputError, match="1 missing: box_net/box-0/bias. Nothing was written"):
        convert(prefix, tmp_path / "x.pth", "lite0")


def test_extra_and_renamed_variables(tmp_path: Path) -> None:
    def rename(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield name.replace("box_net/box-0/bias", "box_net/box-0/bais"), value

    prefix = changed(tmp_path, rename, ema=False, momentum=False)
    with pytest.raises(InputError, match=r"1 missing: box_net/box-0/bias \(nearest: box_net/box-0/bais\); 1 left over"):
        convert(prefix, tmp_path / "x.pth", "lite0")


def test_another_shape(tmp_path: Path) -> None:
    def reshape(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield name, value[:-1] if name.startswith("box_net/box-0-bn-4/beta") else value

    prefix = changed(tmp_path, reshape)
    with pytest.raises(InputError, match=r"1 of another shape: box_net/box-0-bn-4/beta \[63\] instead of \[64\]"):
        convert(prefix, tmp_path / "x.pth", "lite0")


def test_some_moving_averages_are_not_enough(tmp_path: Path) -> None:
    def without(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        if name != f"class_net/class-0/bias{EMA_SUFFIX}":
            yield name, value

    prefix = changed(tmp_path, without)
    with pytest.raises(
        InputError, match="of all 588 model variables, found 587; without: class_net/class-0/bias. Use --variables raw"
    ):
        convert(prefix, tmp_path / "x.pth", "lite0")
    assert convert(prefix, tmp_path / "raw.pth", "lite0", variables="raw").conversion.account.kind == "raw"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_implausible_values(tmp_path: Path, bad: float) -> None:
    where = "fpn_cells/cell_1/fnode3/op_after_combine8/bn/moving_variance"

    def poison(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield name, np.where(np.arange(64) == 5, np.float32(bad), value) if name == where else value

    prefix = changed(tmp_path, poison, ema=False, momentum=False)
    with pytest.raises(InputError, match=f"expected finite values and variances >= 0, found {where}"):
        convert(prefix, tmp_path / "x.pth", "lite0")
    written = convert(prefix, tmp_path / "x.pth", "lite0", allow_nonfinite=True)
    value = float(read_state_dict(written.path)["fpn.cell.1.fnode.3.after_combine.conv.bn.running_var"][5])
    assert value == bad or (np.isnan(bad) and np.isnan(value))


def test_outputs_that_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a name that ends in .pth or .pt or .safetensors"):
        convert(checkpoint, tmp_path / "x.bin", "lite0")
    with pytest.raises(InputError, match="expected a writable folder, found: No such file or directory"):
        convert(checkpoint, tmp_path / "none" / "x.pth", "lite0")
    for text in ('{"images": []}', "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match="x.json, which exists and is not metadata of this project"):
            convert(checkpoint, tmp_path / "x.pth", "lite0")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_what_was_written_is_read_back(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(path: Path, mapped: bool = False) -> dict[str, torch.Tensor]:
        state = read_state_dict(path)
        state["backbone.bn1.bias"][3] += 1e-3
        return state

    monkeypatch.setattr(weight_files, "read_tensors", flipped)
    with pytest.raises(InputError, match=r"read back 1 different tensors \(backbone.bn1.bias\)"):
        convert(checkpoint, tmp_path / "x.pth", "lite0")
    assert list(tmp_path.iterdir()) == []


def run_cli(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "cli.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_command_line(checkpoint: Path, tmp_path: Path, repository: Path) -> None:
    output = str(tmp_path / "lite0.pth")
    done = run_cli(
        repository, "convert", "--variant", "lite0", "--checkpoint", str(checkpoint), "--output", output, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tensorflow_variables"] == 588
    failed = run_cli(repository, "convert", "--variant", "d0", "--checkpoint", str(checkpoint), "--output", output)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.count("\n") == 1 and "this is a lite0 checkpoint" in failed.stderr
    wrong = run_cli(repository, "convert", "--varient", "d0")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_writing(
    checkpoint: Path, tmp_path: Path, repository: Path, number: signal.Signals, code: int
) -> None:
    """A signal while the temporary file is there: the old file stays, no debris, no traceback."""
    (tmp_path / "x.pth").write_bytes(b"old")
    script = (
        f"NUMBER = {int(number)}\n"
        "import os, signal, sys, porting.weights.files as w, cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored\n"
        "plain = w._compare\n"
        "def interrupted(*a):\n    os.kill(os.getpid(), NUMBER)\n    return plain(*a)\n"
        "w._compare = interrupted\ncli.main()\n"
    )
    arguments = ["convert", "--variant", "lite0", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "x.pth"),
                 "--overwrite"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.pth", b"old")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), [("d0_128", "d0"), ("lite0_160", "lite0"), ("d7x_256", "d7x")])
def test_official_outputs(name: str, variant: str, shared: Path, tmp_path: Path) -> None:
    """Head outputs and every batch norm of google/automl's own run, float32."""
    sys.path.insert(0, str(shared / "golden"))
    try:
        import make_checkpoint as golden
    finally:
        sys.path.pop(0)
    table = build_table(get_config(variant))
    write_checkpoint(tmp_path / "model", ((n, golden.value(n, s)) for n, s in table.tensorflow_shapes.items()))
    path = convert(tmp_path / "model", tmp_path / "x.safetensors", variant).path
    expected = np.load(shared / "golden" / f"{name}.npz")
    size = json.loads((shared / "golden" / f"{name}.json").read_text())["image_size"]
    model = create_model(weights=path, image_size=tuple(size))
    outputs: dict[str, np.ndarray] = {}
    modules = dict(model.named_modules())
    scopes = {r.tensorflow_names[0].rsplit("/", 1)[0]: r.pytorch_key.rsplit(".", 1)[0]
              for r in table.rows if r.pytorch_key.endswith(".running_var")}  # fmt: skip

    def keep(scope: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: Any, *out: Any) -> None:
            value = out[0] if out else args[0]
            outputs[scope] = value.permute(0, 2, 3, 1).numpy().copy()

        return hook

    for scope, module_name in scopes.items():
        module = modules[module_name]
        if hasattr(module, "act"):
            module.act.register_forward_pre_hook(keep(scope))
        else:
            module.register_forward_hook(keep(scope))
    images = torch.from_numpy(golden.golden_input(*size).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        class_outputs, box_outputs = model(images)
    for kind, maps in (("class", class_outputs), ("box", box_outputs)):
        for level, out in zip(model.config.levels, maps, strict=True):
            reference = expected[f"{kind}_{level}"]
            error = np.abs(out[0].permute(1, 2, 0).numpy() - reference).max() / np.abs(reference).max()
            assert error <= 5e-6, f"{kind} level {level}"
    assert len(outputs) == len(expected["layer_names"]) == len(scopes)
    for place, scope in enumerate(map(str, expected["layer_names"])):
        mine = outputs[scope].ravel()
        samples = mine[golden.layer_sample_indices(scope, mine.size)]
        largest = expected["layer_stats"][place][2]
        assert np.abs(samples - expected["layer_samples"][place]).max() <= 1e-5 * largest, scope


def test_three_dialects_give_the_same_tensors(shared: Path, tmp_path: Path) -> None:
    """The .h5 and object-based files hold the golden lite0 (their stem under the names that Keras numbered)."""
    h5 = convert(shared / "dialects" / "lite0.h5", tmp_path / "h5.pth", "lite0")
    objects = convert(shared / "dialects" / "lite0_object", tmp_path / "o.pth", "lite0")
    assert (h5.conversion.metadata["source"]["dialect"], objects.conversion.metadata["source"]["dialect"]) == (
        "h5",
        "object",
    )
    assert h5.path.read_bytes() == objects.path.read_bytes()


def test_damage_anywhere_in_the_data_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Also in optimizer slots and raw values, which the conversion does not use."""
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / f"model{suffix}").write_bytes(checkpoint.with_name(f"model{suffix}").read_bytes())
    data = tmp_path / "model.data-00000-of-00001"
    whole = data.read_bytes()
    for place in (len(whole) // 3, len(whole) // 2, len(whole) - 100):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(InputError, match="checksum"):
            convert(tmp_path / "model", tmp_path / "x.pth", "lite0")
    assert not (tmp_path / "x.pth").exists()
