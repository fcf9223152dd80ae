"""Which values of a file are the model: what wrote it decides, as in the official code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from demo.synthetic import synthetic_value
from effdet_model.errors import InputError
from effdet_model.variants import get_config
from mappings.committed import table_for
from mappings.layouts import LAYOUTS
from porting.checkpoint.dialects import EMA_SUFFIX, VALUE_SUFFIX
from porting.checkpoint.sources import open_source
from porting.checkpoint.wire import write_varint
from porting.checkpoint.write_tensorbundle import write_checkpoint
from porting.convert import convert, convert_source

CONFIG = get_config("lite0")
SHAPES = table_for(CONFIG).tensorflow_shapes


def raw(name: str) -> np.ndarray:
    return synthetic_value(name, SHAPES[name], seed=1)


def average(name: str) -> np.ndarray:
    return synthetic_value(name, SHAPES[name], seed=2)


def message(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return write_varint(number << 3) + write_varint(content)
    return write_varint(number << 3 | 2) + write_varint(len(content)) + content


def object_graph(full_names: Mapping[str, str]) -> np.ndarray:
    """A graph of a root with one variable per key (without suffix) -> full name."""
    nodes = [message(1, b"")]
    for key, name in full_names.items():
        attribute = message(2, name.encode()) + message(3, (key + VALUE_SUFFIX).encode())
        nodes.append(message(1, message(2, attribute)))
    return np.array(b"".join(nodes), object)


def object_based(prefix: Path, keys: Mapping[str, str], extra: Mapping[str, np.ndarray] | None = None) -> Path:
    """A TensorFlow 2 checkpoint of raw values: canonical name -> key without suffix, full names in its graph."""

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        yield "_CHECKPOINTABLE_OBJECT_GRAPH", object_graph({key: name for name, key in keys.items()})
        for name, key in keys.items():
            yield key + VALUE_SUFFIX, raw(name)
        yield from (extra or {}).items()

    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(prefix, tensors())
    return prefix


def converted(path: Path, **how: object) -> tuple[str, bool, bool]:
    """Which kind conversion took, and whether the state_dict is made of `raw` and of `average`."""
    with open_source(path) as source:
        found = convert_source(source, "lite0", **how)  # type: ignore[arg-type]
    same = {}
    for label, value in (("raw", raw), ("average", average)):
        same[label] = all(
            np.array_equal(
                np.asarray(LAYOUTS[row.kind].to_pytorch([value(name) for name in row.tensorflow_names]), np.float32),
                found.state_dict[row.pytorch_key].numpy(),
            )
            for row in table_for(CONFIG).rows
            if row.tensorflow_names
        )
    return found.account.kind, same["raw"], same["average"]


def tf1(prefix: Path, averages: bool = True) -> Path:
    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name in SHAPES:
            yield name, raw(name)
            if averages:
                yield name + EMA_SUFFIX, average(name)

    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(prefix, tensors())
    return prefix


def test_training_with_tensorflow_1_means_its_averages(tmp_path: Path) -> None:
    prefix = tf1(tmp_path / "model")
    assert converted(prefix) == ("ema", False, True)
    assert converted(prefix, moving_average_decay=0.9998) == ("ema", False, True)
    assert converted(prefix, moving_average_decay=0.0) == ("raw", True, False)
    assert converted(prefix, variables="raw") == ("raw", True, False)
    assert converted(tf1(tmp_path / "plain", averages=False)) == ("raw", True, False)


def slots(keys: Mapping[str, str], names: list[str]) -> dict[str, np.ndarray]:
    return {f"{keys[name]}/.OPTIMIZER_SLOT/optimizer/average{VALUE_SUFFIX}": average(name) for name in names}


@pytest.mark.parametrize("trainable_only", [True, False])
def test_training_with_tensorflow_2_means_the_model(tmp_path: Path, trainable_only: bool) -> None:
    """Slots of trainable variables alone, or of all of them, those of the statistics stale: neither is the model."""
    keys = {name: f"kept/{place}" for place, name in enumerate(SHAPES)}
    chosen = [name for name in SHAPES if not trainable_only or "moving_" not in name]
    prefix = object_based(tmp_path / "ckpt-1", keys, slots(keys, chosen))
    assert converted(prefix) == ("raw", True, False)
    note = convert(prefix, tmp_path / "x.pth", "lite0").conversion.notes[-1]
    assert note == (
        f"took the raw values, not the moving averages ({len(chosen)} of 588 variables have one): a TensorFlow 2 "
        "checkpoint is restored from the model's own values"
    )
    if trainable_only:
        with pytest.raises(InputError, match=r"expected moving averages .* of all 588 model variables, found 372"):
            converted(prefix, variables="ema")


@pytest.mark.parametrize("named", ["tf1 names", "numbered keys"])
def test_a_saved_model_means_its_own_variables(tmp_path: Path, named: str) -> None:
    """The averages beside them are never assigned in an export: they hold random initial values."""
    folder = tmp_path / "export"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    if named == "tf1 names":
        tf1(folder / "variables" / "variables")
    else:
        keys = {name: f"model/variables/{place}" for place, name in enumerate(SHAPES)}
        head = {"model/backbone/_head/_fc/bias" + VALUE_SUFFIX: np.zeros(1000, np.float32)}
        object_based(folder / "variables" / "variables", keys, head)
    for path in (folder, folder / "variables", folder / "variables" / "variables"):
        assert converted(path) == ("raw", True, False)
        with open_source(path) as source:
            assert source.dialect == "savedmodel" and not source.unknown


def test_names_of_the_trainer_of_hub_modules(tmp_path: Path) -> None:
    keys = {}
    for name in SHAPES:
        net, _, leaf = name.partition("-predict/")
        if leaf:
            keys[name] = f"{'classes' if net.startswith('class') else 'boxes'}/{leaf}"
        else:
            keys[name] = "base_model/" + name.replace("/", ".S") + ":0"
    assert converted(object_based(tmp_path / "ckpt-1", keys)) == ("raw", True, False)
    unnamed = {"_CHECKPOINTABLE_OBJECT_GRAPH": np.array(b"", object)}
    unnamed |= {key + VALUE_SUFFIX: raw(name) for name, key in keys.items()}
    write_checkpoint(tmp_path / "ckpt-2", unnamed.items())
    assert converted(tmp_path / "ckpt-2") == ("raw", True, False)


def test_the_best_checkpoint_in_its_own_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tf1(run / "archive" / "model")
    assert converted(run) == ("ema", False, True)
    (run / "config.yaml").write_text("num_classes: 90\n")  # what else lies there when the others were cleared away
    (run / "eval").mkdir()
    (run / "events.out.tfevents.1").write_bytes(b"x")
    assert converted(run) == ("ema", False, True)
    (run / "model.data-00000-of-00001").write_bytes(b"x")
    with pytest.raises(InputError, match="the index of model.data-00000-of-00001 is missing"):
        converted(run)


def test_segmentation_beside_detection(tmp_path: Path) -> None:
    keys = {name: f"kept/{place}" for place, name in enumerate(SHAPES)}
    more = {"seg_head/con2d_ts/0/kernel" + VALUE_SUFFIX: np.zeros((3, 3, 64, 64), np.float32)}
    prefix = object_based(tmp_path / "ckpt-1", keys, more)
    assert converted(prefix) == ("raw", True, False)
    assert convert(prefix, tmp_path / "x.pth", "lite0").conversion.account.ignored == {
        "object graph": 1, "segmentation head; detection is converted": 1,
    }  # fmt: skip


def test_numbers_and_names_of_a_file_are_bounded(tmp_path: Path) -> None:
    def with_name(name: str) -> Path:
        write_checkpoint(tmp_path / "model", [(name, np.zeros(3, np.float32)), ("class_net/class-0/bias", np.zeros(3))])
        return tmp_path / "model"

    with open_source(with_name("class_net/class-0-bn-3000000/gamma")) as source:
        assert source.unknown == ["class_net/class-0-bn-3000000/gamma"]
    with pytest.raises(InputError, match="tensor names of at most 4096 bytes, found one of 76000"):
        open_source(with_name("a/" * 38000))


CASES = {
    "hub_trainer_names": ("ckpt-1", {}, "right"),
    "savedmodel_tf2_names": ("", {}, "right"),
    "hparams_no_ema": ("model", {"moving_average_decay": 0.0}, "raw"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_files_that_tensorflow_wrote(case: str, tmp_path: Path, shared: Path) -> None:
    import subprocess
    import sys
    import zlib

    name, how, key = CASES[case]
    make = shared / "cases" / case / "make.py"
    done = subprocess.run(
        [sys.executable, str(make), str(tmp_path / "out")], capture_output=True, text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with open_source(tmp_path / "out" / name) as source:
        found = convert_source(source, "lite0", **how)
        kernel = "class_net/class-predict/bias"
        random = np.random.RandomState(zlib.crc32((key + kernel).encode()))
        expected = random.uniform(-0.5, 0.5, SHAPES[kernel]).astype("float32")
        assert np.array_equal(found.state_dict["class_net.predict.conv_pw.bias"].numpy(), expected)
