"""Back to TensorFlow: every variable with its bits, in files that the official code loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from demo.synthetic import write_synthetic_checkpoint
from effdet_model import InputError, create_model, get_config
from effdet_model.fit import same_bits
from effdet_model.hparams import parse_hparams
from effdet_model.weights import read_metadata, read_state_dict
from mappings.committed import table_for
from porting import reverse
from porting.checkpoint.sources import open_source
from porting.checkpoint.write_h5 import ATTRIBUTE_LIMIT, layer_order, write_h5
from porting.convert import convert
from porting.reverse import ReverseWritten, to_tensorflow

FILES = ["checkpoint", "model.data-00000-of-00001", "model.index"]
CUSTOM = {
    "qufpn": "fpn_cell_repeats=1,fpn_name=qufpn,fpn_weight_method=channel_fastattn,separable_conv=false,"
             "conv_bn_act_pattern=true",
    "channel_attn": "fpn_weight_method=channel_attn,num_classes=7,num_scales=2",
    "levels": "fpn_cell_repeats=2,min_level=2,apply_bn_for_resampling=false,fpn_weight_method=attn",
}  # fmt: skip


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A lite0 checkpoint and the weights converted from it."""
    folder = tmp_path_factory.mktemp("lite0")
    prefix = write_synthetic_checkpoint("lite0", folder / "tf", momentum=False)
    return prefix, convert(prefix, folder / "lite0.pth", "lite0").path


def assert_same_variables(prefix: Path, again: Path) -> int:
    """Every moving average of one checkpoint is in another as raw value and, where it has them, as average."""
    with open_source(prefix) as one, open_source(again) as two:
        assert set(one.variables) == set(two.variables) and two.unknown == []
        for name, info in two.variables.items():
            value = one.read(name, "ema")
            for kind in ("raw", "ema") if info.has_ema else ("raw",):
                read = two.read(name, kind)  # type: ignore[arg-type]
                assert (read.dtype, read.shape, read.tobytes()) == (value.dtype, value.shape, value.tobytes()), name
        return len(two.variables)


def assert_round_trip(prefix: Path, weights: Path, folder: Path) -> None:
    """TF -> PyTorch -> TF (both dialects) -> PyTorch, bit by bit."""
    overrides = (read_metadata(weights) or {})["config"]
    variant = overrides.pop("name")
    count = len(table_for(get_config(variant, **overrides)).tensorflow_shapes)
    for output in (folder / "back", folder / "back.h5"):
        to_tensorflow(weights, output)
        assert assert_same_variables(prefix, output) == count
        again = convert(output, folder / f"again{output.suffix}.pth", variant, overrides=overrides)
        state = read_state_dict(again.path)
        first = read_state_dict(weights)
        assert set(state) == set(first)
        assert all(same_bits(state[key], first[key]) for key in first)


def test_lite0_round_trip(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    assert_round_trip(*lite0, tmp_path)


@pytest.mark.parametrize("hparams", CUSTOM.values(), ids=list(CUSTOM))
def test_custom_round_trips(tmp_path: Path, hparams: str) -> None:
    overrides = parse_hparams(hparams).fields
    prefix = write_synthetic_checkpoint(get_config("d0", **overrides), tmp_path / "tf", momentum=False)
    weights = convert(prefix, tmp_path / "own.safetensors", "d0", overrides=overrides).path
    assert_round_trip(prefix, weights, tmp_path)


def test_what_a_checkpoint_holds(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    written = to_tensorflow(lite0[1], tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES == sorted(written.files)
    assert seen == [(done, 588) for done in range(1, 589)]
    assert (written.variables, written.tensors, written.dialect, written.notes) == (588, 2 * 588 + 1, "tf1", ())
    counters = {"num_batches_tracked, which TensorFlow does not count": 108}
    assert dict(written.ignored) == counters
    assert len(written.consumed) + sum(counters.values()) == len(read_state_dict(lite0[1]))
    with open_source(tmp_path / "out") as source:
        assert all(info.has_raw and info.has_ema for info in source.variables.values())
        assert [(item.raw_name, item.reason) for item in source.ignored] == [("global_step", "step counter")]
        assert source.file_sha256() == {name: written.files[name] for name in FILES[1:]}
    report = json.loads(json.dumps(written.to_json()))
    assert (report["variant"], report["tensorflow_variables"], report["dialect"]) == ("lite0", 588, "tf1")


@pytest.mark.parametrize("name", ["out", "out.h5"])
def test_the_same_weights_give_the_same_bytes(lite0: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    def contents(written: ReverseWritten) -> list[bytes]:
        folder = written.output if written.output.is_dir() else written.output.parent
        return [(folder / file).read_bytes() for file in written.files]

    first = contents(to_tensorflow(lite0[1], tmp_path / name))
    assert contents(to_tensorflow(lite0[1], tmp_path / name)) == first, "written over its own output"
    (tmp_path / "elsewhere").mkdir()
    assert contents(to_tensorflow(lite0[1], tmp_path / "elsewhere" / name)) == first


def test_h5_has_the_official_layout(lite0: tuple[Path, Path], shared: Path, tmp_path: Path) -> None:
    to_tensorflow(lite0[1], tmp_path / "ours.h5")
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(shared / "dialects" / "lite0.h5") as theirs:
        assert sorted(ours) == sorted(theirs) and sorted(ours.attrs) == sorted(theirs.attrs)
        assert _text(ours.attrs["layer_names"]) == _text(theirs.attrs["layer_names"])
        for layer in theirs:
            official = [name.replace("stem_1/conv2d_1", "stem/conv2d").replace("stem_1", "stem")
                        for name in _text(theirs[layer].attrs["weight_names"])]  # fmt: skip
            assert _text(ours[layer].attrs["weight_names"]) == official


def test_h5_order() -> None:
    """Blocks before the stem, an FPN node's own weights first, nodes by number, moving values last."""
    config = get_config("d0", fpn_name="qufpn")
    layers = dict(layer_order(config, table_for(config)))
    assert list(layers) == ["efficientnet-b0", "resample_p6", "resample_p7", "fpn_cells", "class_net", "box_net"]
    assert layers["resample_p7"] == [] and len(layers["resample_p6"]) == 6
    backbone = layers["efficientnet-b0"]
    assert backbone[:3] == [f"efficientnet-b0/blocks_0/{leaf}" for leaf in (
        "depthwise_conv2d/depthwise_kernel", "tpu_batch_normalization/gamma", "tpu_batch_normalization/beta",
    )]  # fmt: skip
    trained = [name for name in backbone if "/moving_" not in name]
    assert backbone[: len(trained)] == trained and trained[-1] == "efficientnet-b0/stem/tpu_batch_normalization/beta"
    nodes = [int(name.split("fnode")[1].split("/")[0]) for name in layers["fpn_cells"] if "cell_0/" in name]
    trained_nodes = nodes[: next(i for i in range(1, len(nodes)) if nodes[i] < nodes[i - 1])]
    assert trained_nodes == sorted(trained_nodes) and nodes[len(trained_nodes) :] == sorted(nodes[len(trained_nodes) :])
    assert set(trained_nodes) == set(range(len(config.fpn_graph().nodes)))
    assert layers["fpn_cells"][0] == "fpn_cells/cell_0/fnode0/WSM"


def test_long_name_lists_are_split(tmp_path: Path) -> None:
    names = [f"class_net/{'x' * 90}-{number}/kernel" for number in range(1500)]
    write_h5(tmp_path / "long.h5", [("class_net", names)], lambda name: np.asarray(len(name), np.float32))
    with h5py.File(tmp_path / "long.h5") as file:
        parts = dict(file["class_net"].attrs)
        assert list(parts) == ["weight_names0", "weight_names1", "weight_names2"]
        assert all(part.nbytes <= ATTRIBUTE_LIMIT for part in parts.values())
        assert sum(map(_text, parts.values()), []) == [f"{name}:0" for name in names]


def _text(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def test_variant_classes_and_anchors_without_metadata(tmp_path: Path) -> None:
    model = create_model("lite1", num_classes=5, num_scales=2)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    written = to_tensorflow(tmp_path / "bare.pth", tmp_path / "out")
    assert (written.config.name, written.config.num_classes, written.config.anchors_per_location) == ("lite1", 5, 6)
    assert written.notes == (
        "6 anchors per location, as the shape of box-predict says; assumed 2 scales x 3 ratios, which no checkpoint "
        "tells: set --hparams num_scales and aspect_ratios before detecting with these weights",
        "5 classes, as the shape of class-predict says",
    )


def test_half_precision_weights(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    full = read_state_dict(lite0[1])
    state = {key: value.half() if value.is_floating_point() else value for key, value in full.items()}
    save_file(state, tmp_path / "half.safetensors")
    written = to_tensorflow(tmp_path / "half.safetensors", tmp_path / "out", "lite0")
    assert written.notes[-1] == "588 tensors of 16 bits became float32, which holds each of their values exactly"
    with open_source(tmp_path / "out") as source:
        kernel = source.read("efficientnet-lite0/stem/conv2d/kernel", "ema")
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), state["backbone.conv_stem.weight"].float().numpy())


def _saved(folder: Path, lite0: Path, change: Any) -> Path:
    state = dict(read_state_dict(lite0))
    torch.save(change(state) or state, folder / "bad.pth")
    return folder / "bad.pth"


def _nan(state: dict[str, torch.Tensor]) -> None:
    state["box_net.predict.conv_pw.bias"] = torch.full((36,), float("nan"))
    state["backbone.bn1.running_var"] = -state["backbone.bn1.running_var"]


BAD_WEIGHTS = {
    "missing": (lambda s: s.pop("backbone.bn1.bias") is None,
                "found 1 missing: backbone.bn1.bias. Nothing was written; name the variant and --hparams"),
    "extra": (lambda s: s.update(ema_decay=torch.zeros(1)), "found 1 left over: ema_decay"),
    "shape": (lambda s: s.update({"backbone.bn1.bias": torch.zeros(33)}), r"bn1.bias \[33\] instead of \[32\]"),
    "dtype": (lambda s: s.update({"backbone.bn1.bias": torch.zeros(32).double()}), r"1 not float32: .*\(float64\)"),
    "values": (_nan, r"running_var \(negative variance\), box_net.*bias \(NaN or Inf\).*--allow-nonfinite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("name", ["out", "out.h5"])
def test_bad_weights(lite0: tuple[Path, Path], tmp_path: Path, case: str, name: str) -> None:
    change, message = BAD_WEIGHTS[case]
    bad = _saved(tmp_path, lite0[1], change)
    with pytest.raises(InputError, match=message):
        to_tensorflow(bad, tmp_path / name, "lite0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth"]


def test_nonfinite_on_request(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    bad = _saved(tmp_path, lite0[1], _nan)
    to_tensorflow(bad, tmp_path / "out.h5", "lite0", allow_nonfinite=True)
    with open_source(tmp_path / "out.h5") as source:
        assert np.isnan(source.read("box_net/box-predict/bias")).all()


def test_models_that_only_pytorch_has(tmp_path: Path) -> None:
    torch.save(create_model("efficientdet_d0").state_dict(), tmp_path / "d0.pth")
    with pytest.raises(InputError, match="mapping of efficientdet_d0: expected an architecture that google/automl"):
        to_tensorflow(tmp_path / "d0.pth", tmp_path / "out")
    torch.save({"x": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="expected an EfficientDet with class_net.predict, found 1 tensors"):
        to_tensorflow(tmp_path / "other.pth", tmp_path / "out")
    with pytest.raises(InputError, match="you asked for d1|prediction layers|expected exactly the tensors of d1"):
        to_tensorflow(tmp_path / "d0.pth", tmp_path / "out", "d1")


def test_outputs_that_are_refused(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.out").touch()
    with pytest.raises(InputError, match="run: expected a new or empty folder, found events.out in it"):
        to_tensorflow(lite0[1], tmp_path / "run")
    with pytest.raises(InputError, match="expected a folder or a name that ends in .h5, found a file"):
        to_tensorflow(lite0[1], tmp_path / "run" / "events.out")
    with pytest.raises(InputError, match="expected a file in an existing folder, found no folder"):
        to_tensorflow(lite0[1], tmp_path / "nowhere" / "a.h5")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["events.out", "run"]


@pytest.mark.parametrize("name", ["out", "out.h5"])
def test_nothing_stays_of_an_interrupted_write(
    lite0: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_tensorflow(lite0[1], tmp_path / name, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_keeps_other_bits_is_noticed(
    lite0: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = reverse.write_checkpoint

    def faulty(prefix: Path, tensors: Any) -> None:
        genuine(prefix, ((name, -value if name == "box_net/box-0/bias" else value) for name, value in tensors))

    monkeypatch.setattr(reverse, "write_checkpoint", faulty)
    with pytest.raises(InputError, match="read back 1 different tensors .box_net/box-0/bias.; the disk is failing"):
        to_tensorflow(lite0[1], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


OFFICIAL = """
import json, sys, types
import numpy as np
import tensorflow as tf
sys.path.insert(0, sys.argv[1])
sys.modules["visualize"] = types.SimpleNamespace(vis_utils=None)  # draws boxes; needs matplotlib
import efficientdet_arch, hparams_config, inference
from tf2 import efficientdet_keras, util_keras
folder, h5 = sys.argv[2:4]
config = hparams_config.get_efficientdet_config("efficientdet-lite0")
config.image_size = 64
reader = tf.train.load_checkpoint(folder)
plain = lambda name: name.split(":")[0].replace("stem_1/conv2d_1", "stem/conv2d").replace("stem_1", "stem")
def fresh():
    tf.keras.backend.clear_session()
    model = efficientdet_keras.EfficientDetNet(config=config)
    model(tf.zeros([1, 64, 64, 3]), training=False)
    return model
found = {}
model = fresh()
model.load_weights(h5)
found["h5"] = sum(np.array_equal(w.numpy(), reader.get_tensor(plain(w.name))) for w in model.weights)
model = fresh()
util_keras.restore_ckpt(model, folder, skip_mismatch=False)
found["keras"] = sum(np.array_equal(w.numpy(), reader.get_tensor(plain(w.name))) for w in model.weights)
found["all"] = len(model.weights)
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    efficientdet_arch.efficientdet(tf.zeros([1, 64, 64, 3]), config=config)
    inference.restore_ckpt(session, folder, ema_decay=config.moving_average_decay)
    variables = [v for v in tf.compat.v1.global_variables() if "global_step" not in v.name and "/Expo" not in v.name]
    values = session.run(variables)
    found["graph"] = sum(np.array_equal(a, reader.get_tensor(v.op.name)) for a, v in zip(values, variables))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_official_code_loads_it(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    if "EFFDET_PORT_AUTOML" not in os.environ:
        pytest.skip("EFFDET_PORT_AUTOML names no clone of google/automl")
    to_tensorflow(lite0[1], tmp_path / "out")
    to_tensorflow(lite0[1], tmp_path / "out.h5")
    clone = Path(os.environ["EFFDET_PORT_AUTOML"])
    clone = clone / "efficientdet" if (clone / "efficientdet").is_dir() else clone
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL, str(clone), str(tmp_path / "out"), str(tmp_path / "out.h5")],
        capture_output=True, text=True, check=False, env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == {"h5": 588, "keras": 588, "graph": 588, "all": 588}
