"""Inspection: what a file is, what stands in the way, and a next command that works."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors.torch import save_file

from cli import cli
from demo.synthetic import synthetic_tensors, write_synthetic_checkpoint
from effdet_model import InputError, create_model, get_config
from effdet_model.hparams import parse_hparams
from effdet_model.weights import read_metadata, read_state_dict
from porting.checkpoint.dialects import EMA_SUFFIX
from porting.checkpoint.write_tensorbundle import write_checkpoint
from porting.convert import convert
from porting.inspect.run import Averages, Inspection, inspect_file
from porting.inspect.show import inspection_summary
from porting.inspect.value_statistics import Extreme, Statistics
from porting.recognise.heads import Heads
from porting.reverse import to_tensorflow

Change = Callable[[str, np.ndarray], Iterator[tuple[str, np.ndarray]]]


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A lite0 checkpoint as a training run leaves it, and the weights converted from it."""
    folder = tmp_path_factory.mktemp("lite0")
    prefix = write_synthetic_checkpoint("lite0", folder / "tf")
    return prefix, convert(prefix, folder / "lite0.pth", "lite0").path


def changed(folder: Path, change: Change, **how: Any) -> Path:
    """The lite0 checkpoint with every tensor passed through `change`."""
    tensors = synthetic_tensors(get_config("lite0"), momentum=False, **how)
    write_checkpoint(folder / "model", (new for name, value in tensors for new in change(name, value)))
    return folder / "model"


def shown(inspection: Inspection) -> str:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(inspection_summary(inspection))
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def run_next(inspection: Inspection, output: Path) -> Any:
    """The next command (a conversion), run with an output of one's own; the metadata that it wrote."""
    words = shlex.split(inspection.next_command or "")
    assert words[:3] == ["python", "cli.py", "convert"]
    result = CliRunner().invoke(cli, [*words[2:], "--output", str(output)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return read_metadata(output)


def test_a_checkpoint(lite0: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    found = inspect_file(lite0[0], lambda done, total: seen.append((done, total)))
    assert seen == [(done, 1176) for done in range(1, 1177)]
    assert (found.kind, found.dialect, found.variants, found.variant) == ("checkpoint", "tf1", ("lite0",), "lite0")
    assert (found.similarity, found.heads, found.averages) == (1.0, Heads(90, 9), Averages("all", 588, 0))
    assert found.ignored == {
        "optimizer slot": 372, "raw value; the moving average is used": 588, "step counter": 1,
    }  # fmt: skip
    assert found.usable and found.problems == found.notes == found.unknown == [] and found.hparams == {}
    assert found.next_command == f"python cli.py convert --variant lite0 --checkpoint {lite0[0]}"
    metadata = read_metadata(lite0[1]) or {}
    assert found.sha256 == metadata["source"]["sha256"]
    assert {file.name: file.sha256 for file in found.files} == metadata["source"]["files"]
    assert all(file.size == (lite0[0].parent / file.name).stat().st_size for file in found.files)


def test_values_of_a_checkpoint(lite0: tuple[Path, Path]) -> None:
    """Figures of the moving averages, counted here once more from the converted weights."""
    values = inspect_file(lite0[0]).values
    assert list(values) == ["raw", "ema"]
    state = {key: tensor for key, tensor in read_state_dict(lite0[1]).items() if "num_batches" not in key}
    ema = values["ema"]
    assert (ema.tensors, dict(ema.dtypes), ema.plausible) == (588, {"float32": 588}, True)
    assert ema.values == sum(tensor.numel() for tensor in state.values())
    assert ema.parameters == sum(tensor.numel() for key, tensor in state.items() if ".running_" not in key)
    assert ema.minimum and ema.maximum and ema.largest_abs
    assert ema.minimum.value == min(float(tensor.min()) for tensor in state.values())
    assert ema.maximum.value == max(float(tensor.max()) for tensor in state.values())
    assert ema.largest_abs.value == max(abs(ema.minimum.value), ema.maximum.value)
    assert (ema.dead_batch_norms, ema.dead_channels) == ([], 0)


def test_json_and_text(lite0: tuple[Path, Path]) -> None:
    for path in lite0:
        found = inspect_file(path)
        report = json.loads(json.dumps(found.to_json()))
        assert (report["variant"], report["usable"], report["heads"]["num_classes"]) == ("lite0", True, 90)
        assert report["next_command"] == found.next_command
        text = shown(found)
        for part in (found.sha256 if len(found.files) == 1 else found.files[0].sha256, "lite0", "float32"):
            assert part in text
        assert f"next: {found.next_command}\n" in text, "on one line, to be copied"


def test_brackets_are_not_markup(tmp_path: Path) -> None:
    folder = tmp_path / "run [red] 1"
    folder.mkdir()
    torch.save({"a[bold]": torch.zeros(2)}, folder / "own [bold] x.pth")
    found = inspect_file(folder / "own [bold] x.pth")
    assert "own [bold] x.pth" in shown(found)
    prefix = write_synthetic_checkpoint("lite0", folder / "tf", ema=False, momentum=False)
    found = inspect_file(prefix)
    assert found.next_command and str(prefix) in shlex.split(found.next_command)
    assert f"next: {found.next_command}" in shown(found)
    assert run_next(found, tmp_path / "x.pth")["variant"] == "lite0"


def test_own_classes_and_anchors(tmp_path: Path) -> None:
    config = get_config("d1", num_classes=20, num_scales=2)
    prefix = write_synthetic_checkpoint(config, tmp_path / "own-d1", ema=False, momentum=False)
    found = inspect_file(prefix)
    assert found.heads == Heads(20, 6) and found.averages == Averages("none", 0, 912)
    assert found.hparams == {"num_classes": 20, "num_scales": 2}
    assert (found.next_command or "").endswith(" --hparams num_classes=20,num_scales=2")
    assert "assumed 2 scales x 3 ratios, which no checkpoint tells" in found.notes[-2]
    assert found.notes[-1] == "20 classes, as the shape of class-predict says"
    assert run_next(found, tmp_path / "own.pth")["config"]["num_classes"] == 20


def test_one_shape_several_variants(tmp_path: Path) -> None:
    for name, variant in {"efficientdet-d0": "d0", "advprop/efficientdet-d0": "d0_ap"}.items():
        prefix = write_synthetic_checkpoint("d0", tmp_path / name, ema=False, momentum=False)
        found = inspect_file(prefix)
        assert (found.variants, found.variant, found.usable) == (("d0", "d0_ap"), variant, True)
        assert f"d0, d0_ap have the same shapes; took {variant}" in found.notes[0]
    prefix = write_synthetic_checkpoint("d0", tmp_path / "other", ema=False, momentum=False)
    found = inspect_file(prefix)
    assert (found.variants, found.variant, found.usable, found.next_command) == (("d0", "d0_ap"), None, False, None)
    assert found.choices == [f"python cli.py convert --variant {name} --checkpoint {prefix}" for name in found.variants]
    assert f"either: {found.choices[0]}\nor: {found.choices[1]}\n" in shown(found)
    assert "differ in preprocessing, and no name around the file says which it is" in found.problems[0]


@pytest.mark.parametrize(
    "hparams",
    [
        "fpn_cell_repeats=1,fpn_name=qufpn,separable_conv=false,num_classes=3",
        "min_level=2,apply_bn_for_resampling=false,fpn_weight_method=fastattn,box_class_repeats=2",
        "conv_bn_act_pattern=true,fpn_num_filters=48,max_level=6,num_scales=2,aspect_ratios=1.0*2.0",
    ],
)
def test_hparams_are_read_from_names_and_shapes(tmp_path: Path, hparams: str) -> None:
    config = get_config("lite0", **parse_hparams(hparams).fields)
    prefix = write_synthetic_checkpoint(config, tmp_path / "own", ema=False, momentum=False)
    found = inspect_file(prefix)
    assert found.usable and found.variants == () and 0 < found.similarity < 1
    assert found.notes[0].startswith("hparams were read from names and shapes")
    assert run_next(found, tmp_path / "own.pth")["counts"]["tensorflow_variables"] == found.values["raw"].tensors


def test_fusion_weights_that_shapes_do_not_tell(tmp_path: Path) -> None:
    """channel_attn and channel_fastattn have the same variables, and neither is a default."""
    config = get_config("lite0", fpn_weight_method="channel_attn", num_classes=3)
    prefix = write_synthetic_checkpoint(config, tmp_path / "own", ema=False, momentum=False)
    found = inspect_file(prefix)
    assert not found.usable and found.next_command is None
    assert [choice.rpartition(" ")[2] for choice in found.choices] == [
        "fpn_weight_method=channel_fastattn,num_classes=3", "fpn_weight_method=channel_attn,num_classes=3",
    ]  # fmt: skip
    with pytest.raises(InputError, match="make another network; say --hparams fpn_weight_method=channel_fastattn or"):
        convert(prefix, tmp_path / "x.pth")
    written = convert(prefix, tmp_path / "x.pth", overrides={"fpn_weight_method": "channel_attn"})
    config = written.conversion.config
    assert (config.name, config.fpn_weight_method, config.num_classes) == ("lite0", "channel_attn", 3)


def test_nothing_that_fits(tmp_path: Path) -> None:
    def widen(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield name, np.pad(value, (0, 1)) if name.startswith("efficientnet-lite0/blocks_3/tpu") else value

    found = inspect_file(changed(tmp_path, widen, ema=False))
    assert (found.variants, found.variant, found.nearest, found.usable) == ((), None, "lite0", False)
    assert found.problems[0].startswith("no variant has exactly these shapes; nearest is lite0 (9")
    assert (found.next_command or "").endswith("--hparams HPARAMS.yaml")
    assert "none exactly; nearest lite0" in shown(found)


def test_a_backbone_alone(tmp_path: Path) -> None:
    def backbone(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        if name.startswith("efficientnet"):
            yield name, value

    found = inspect_file(changed(tmp_path, backbone))
    assert (found.heads, found.next_command, found.usable) == (None, None, False)
    assert "a backbone alone cannot be ported" in found.problems[0]
    assert "problem: " in shown(found)


def test_some_moving_averages(tmp_path: Path) -> None:
    def without(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        if name != f"class_net/class-0/bias{EMA_SUFFIX}":
            yield name, value

    found = inspect_file(changed(tmp_path, without))
    assert found.averages == Averages("partial", 587, 1) and found.usable
    assert found.notes == ["only 587 variables have a moving average; took the raw values"]
    assert (found.next_command or "").endswith(" --variables raw")
    assert run_next(found, tmp_path / "raw.pth")["source"]["variables"] == "raw"


def test_neither_kind_is_complete(tmp_path: Path) -> None:
    def without(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        if name not in (f"class_net/class-0/bias{EMA_SUFFIX}", "class_net/class-1/bias"):
            yield name, value

    found = inspect_file(changed(tmp_path, without))
    assert not found.usable and "neither kind is complete" in found.problems[0]


def test_unknown_names_are_reported(tmp_path: Path) -> None:
    def more(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        yield name, value
        if name == "global_step":
            yield "depth_head/logits/kernel[x]", np.zeros((2, 3), np.float32)

    found = inspect_file(changed(tmp_path, more, ema=False))
    assert found.unknown == ["depth_head/logits/kernel[x]"] and not found.usable
    assert "1 left over: depth_head/logits/kernel[x]" in found.problems[0]
    assert "1 unknown: depth_head/logits/kernel[x]" in shown(found)


def test_bad_values(tmp_path: Path) -> None:
    def spoil(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        value = np.array(value)
        if name == "box_net/box-0/bias":
            value[:3] = np.nan
            value[3] = np.inf
        elif name == "efficientnet-lite0/blocks_2/tpu_batch_normalization/moving_variance":
            value[:2] = -1
        elif name in ("class_net/class-0-bn-3/gamma", "class_net/class-1-bn-3/moving_variance"):
            value[:] = 0
        elif name == "box_net/box-1-bn-4/gamma":
            value[:5] = 1e-12
        yield name, value

    found = inspect_file(changed(tmp_path, spoil, ema=False))
    values = found.values["raw"]
    assert values.nan == {"box_net/box-0/bias": 3} and values.infinite == {"box_net/box-0/bias": 1}
    assert values.negative_variances == {
        "efficientnet-lite0/blocks_2/tpu_batch_normalization/moving_variance": 2
    }  # fmt: skip
    assert values.dead_batch_norms == ["class_net/class-0-bn-3", "class_net/class-1-bn-3"]
    assert values.dead_channels == 64 + 64 + 5
    assert [problem.split(" in ")[0] for problem in found.problems] == [
        "3 NaN", "1 infinite values", "2 negative variances",
    ]  # fmt: skip
    assert values.minimum == Extreme(-1.0, "efficientnet-lite0/blocks_2/tpu_batch_normalization/moving_variance") or (
        values.minimum is not None and values.minimum.value < -1
    )
    assert not found.usable and "--allow-nonfinite" in (found.next_command or "")
    assert run_next(found, tmp_path / "x.pth")["variant"] == "lite0"


def test_statistics_of_odd_arrays() -> None:
    statistics = Statistics()
    statistics.add("empty", np.zeros((0, 3), np.float32), "parameter")
    statistics.add("nan", np.full(2, np.nan, np.float16), "parameter")
    statistics.add("count", np.array(7), "counter", "int64")
    assert statistics.minimum == statistics.maximum == statistics.largest_abs == Extreme(7.0, "count")
    assert (statistics.tensors, statistics.values, statistics.parameters) == (3, 3, 2)
    assert dict(statistics.dtypes) == {"float32": 1, "float16": 1, "int64": 1}


def test_archive_and_h5(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    archive = tmp_path / "efficientdet-lite0.tgz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for file in lite0[0].parent.iterdir():
            tar.add(file, f"efficientdet-lite0/{file.name}")
    found = inspect_file(archive)
    assert ([file.name for file in found.files], found.dialect) == (["efficientdet-lite0.tgz"], "tf1")
    assert found.files[0].sha256 == found.sha256
    assert found.next_command == f"python cli.py convert --variant lite0 --checkpoint {archive}"
    to_tensorflow(lite0[1], tmp_path / "back.h5")
    found = inspect_file(tmp_path / "back.h5")
    assert (found.dialect, found.averages, found.variant) == ("h5", Averages("none", 0, 588), "lite0")
    assert "Keras .h5 weights" in shown(found)


def test_weights_with_metadata(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    safe = convert(lite0[0], tmp_path / "a b.safetensors", "lite0").path
    for path, dialect in ((lite0[1], "pth"), (safe, "safetensors")):
        found = inspect_file(path)
        assert (found.kind, found.dialect, found.variant, found.usable) == ("weights", dialect, "lite0", True)
        assert found.next_command == shlex.join(
            ["python", "cli.py", "evaluate", "--variant", "lite0", "--weights", str(path), "--coco", "COCO_FOLDER"]
        )
        values = found.values["weights"]
        assert values.tensors == len(read_state_dict(path)) and values.dtypes["int64"] == 108
        assert values.parameters == inspect_file(lite0[0]).values["ema"].parameters
        assert (found.metadata or {})["source"]["sha256"] in shown(found)


def test_weights_without_metadata(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("lite1", {"num_classes": 5}, " --hparams num_classes=5"), ("efficientdet_d0", {}, ""), ("d7x", {}, ""),
    ]  # fmt: skip
    for name, overrides, end in cases:
        with torch.device("meta"):
            keys = create_model(name, **overrides).state_dict()
        state = {key: torch.ones(tensor.shape, dtype=tensor.dtype) for key, tensor in keys.items()}
        save_file(state, tmp_path / "bare.safetensors")
        found = inspect_file(tmp_path / "bare.safetensors")
        assert (found.variant, found.usable, found.metadata) == (name, True, None), found.problems
        assert (found.next_command or "").endswith(f"--coco COCO_FOLDER{end}")


def test_weights_that_do_not_fit(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    state = read_state_dict(lite0[1])
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "wrapped.pth")
    found = inspect_file(tmp_path / "wrapped.pth")
    assert (found.usable, found.variant, found.variants) == (True, "lite0", ("lite0",))
    assert "took the prefix 'module.' off all names" in found.notes[0]
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    found = inspect_file(tmp_path / "more.safetensors")
    assert (found.nearest, found.variants, found.usable) == ("lite0", (), False)
    (tmp_path / "other.json").write_bytes(lite0[1].with_suffix(".json").read_bytes())
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "other.pth")
    found = inspect_file(tmp_path / "other.pth")
    assert found.unknown == ["more"] and found.problems[0] == "as weights of lite0: 1 left over: more"
    assert "belongs to another file" in found.problems[-1]


def test_half_precision_weights(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.full((3,), 2.0, dtype=torch.float16)}
    save_file(state, tmp_path / "x.safetensors")
    values = inspect_file(tmp_path / "x.safetensors").values["weights"]
    assert dict(values.dtypes) == {"bfloat16": 1, "float16": 1} and values.maximum == Extreme(2.0, "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", b"", "an empty file"), ("x.pth", b"<!DOCTYPE html><p>", "a web page"),
        ("x.pth", b"PK\x03\x04" + bytes(100), "expected a PyTorch state_dict of plain tensors"),
        ("x.pth", b"\x80\x02cos\nsystem\n(S'true'\ntR.", "expected a PyTorch state_dict of plain tensors"),
        ("x.safetensors", b"\x10\0\0\0\0\0\0\0{" + bytes(30), "expected a safetensors file"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "expected a whole HDF5 weight file"),
        ("x.bin", b"something else", "unknown content"),
    ],
)  # fmt: skip
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        inspect_file(tmp_path / name)


def test_missing_and_damaged(lite0: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found nothing"):
        inspect_file(tmp_path / "no.pth")
    for file in lite0[0].parent.iterdir():
        content = bytearray(file.read_bytes())
        if ".data-" in file.name:
            content[1000] ^= 1
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(InputError, match="expected checksum"):
        inspect_file(tmp_path)
