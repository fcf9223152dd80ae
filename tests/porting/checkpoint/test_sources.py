"""One canonical view of every dialect, and one clear message for everything that is no checkpoint."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from effdet_model.errors import InputError
from porting.checkpoint.dialects import EMA_SUFFIX, VALUE_SUFFIX
from porting.checkpoint.sources import Source, open_source
from porting.checkpoint.wire import write_varint
from porting.checkpoint.write_tensorbundle import write_checkpoint


def _value(name: str, size: int = 3) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return np.random.RandomState(seed).randn(size).astype(np.float32)


NAMES = {
    "efficientnet-b0/stem/conv2d/kernel": (
        "efficientnet-b0/efficientnet-b0/stem_1/conv2d_1/kernel:0", "backbone/_stem/_conv_stem/kernel"
    ),
    "class_net/class-predict/bias": ("class_net/class_net/class-predict/bias:0", "class_net/classes/bias"),
    "box_net/box-0-bn-3/gamma": ("box_net/box_net/box-0-bn-3/gamma:0", "box_net/bns/0/0/gamma"),
    "fpn_cells/cell_0/fnode0/WSM": ("fpn_cells/fpn_cells/cell_0/fnode0/WSM:0", "fpn_cells/cells/0/fnodes/0/WSM"),
}  # fmt: skip


def _tf1(folder: Path, ema: bool = True, prefix: str = "model") -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {name: _value(name) for name in NAMES}
    if ema:
        tensors |= {name + EMA_SUFFIX: _value("ema " + name) for name in NAMES}
    tensors |= {"global_step": np.array(3), "class_net/class-predict/bias/Momentum": np.zeros(3)}
    write_checkpoint(folder / prefix, tensors.items())
    return folder


def _h5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        layers = sorted({raw.split("/")[0] for raw, _ in NAMES.values()})
        file.attrs["layer_names"] = layers
        for layer in layers:
            mine = {name: raw for name, (raw, _) in NAMES.items() if raw.startswith(layer + "/")}
            file.create_group(layer).attrs["weight_names"] = [raw.split("/", 1)[1] for raw in mine.values()]
            for name, raw in mine.items():
                file[raw] = _value(name)
    return path


def _message(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return write_varint(number << 3) + write_varint(content)
    return write_varint(number << 3 | 2) + write_varint(len(content)) + content


def _object(folder: Path, ema: bool = False) -> Path:
    folder.mkdir()
    attributes = b""
    tensors = {}
    for name, (_, path) in NAMES.items():
        attribute = _message(2, name.encode()) + _message(3, (path + VALUE_SUFFIX).encode())
        attributes += _message(1, _message(2, attribute))
        tensors[path + VALUE_SUFFIX] = _value(name)
        if ema:
            tensors[f"{path}/.OPTIMIZER_SLOT/optimizer/average{VALUE_SUFFIX}"] = _value("ema " + name)
    graph = _message(1, _message(1, _message(1, 1) + _message(2, b"backbone"))) + attributes
    tensors["_CHECKPOINTABLE_OBJECT_GRAPH"] = np.array(graph, object)
    tensors["save_counter" + VALUE_SUFFIX] = np.array(1)
    write_checkpoint(folder / "ckpt-1", tensors.items())
    return folder


def _archive(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "efficientdet-d0")
    return path


def _check(source: Source, dialect: str, ema: bool) -> None:
    assert source.dialect == dialect and not source.unknown and source.backbone_scope == "efficientnet-b0"
    assert set(source.variables) == set(NAMES)
    for name, info in source.variables.items():
        assert (info.name, info.shape, info.dtype, info.has_raw, info.has_ema) == (name, (3,), "float32", True, ema)
        read = source.read(name)
        assert read.tobytes() == _value(name).tobytes() and not read.flags.writeable
        if ema:
            assert source.read(name, "ema").tobytes() == _value("ema " + name).tobytes()


def test_a_tf1_checkpoint_by_every_name_it_has(tmp_path: Path) -> None:
    folder = _tf1(tmp_path / "tf1")
    shard = "model.data-00000-of-00001"
    archive = _archive(tmp_path / "any.name", folder)
    for path in (folder, folder / "model", folder / "model.index", folder / shard, folder / "checkpoint", archive):
        with open_source(path) as source:
            _check(source, "tf1", ema=True)
            assert {ignored.raw_name: ignored.reason for ignored in source.ignored} == {
                "global_step": "step counter",
                "class_net/class-predict/bias/Momentum": "optimizer slot",
            }
            expected = [archive] if path == archive else [folder / "model.index", folder / shard]
            assert source.files == expected


def test_h5_and_object_based_give_the_same_values(tmp_path: Path) -> None:
    h5 = _h5(tmp_path / "weights.bin")
    with open_source(h5) as source:
        _check(source, "h5", ema=False)
        assert source.files == [h5]
        assert source.sha256() == hashlib.sha256(h5.read_bytes()).hexdigest()
    for ema in (False, True):
        with open_source(_object(tmp_path / f"object{ema}", ema)) as source:
            _check(source, "object", ema)
            assert {ignored.reason for ignored in source.ignored} == {"object graph", "save counter"}
    (tmp_path / "release").mkdir()
    _h5(tmp_path / "release" / "weights.h5")
    with open_source(_archive(tmp_path / "h5.tgz", tmp_path / "release")) as source:
        _check(source, "h5", ema=False)


def test_hashes_of_several_files(tmp_path: Path) -> None:
    folder = _tf1(tmp_path / "tf1")
    with open_source(folder) as source:
        source.start_hashing()
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.files}
        assert source.file_sha256() == files
        text = "".join(f"{digest}  {name[len('model') :]}\n" for name, digest in files.items())
        assert text.count(".index") == text.count(".data-00000-of-00001") == 1
        assert source.sha256() == hashlib.sha256(text.encode()).hexdigest()
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in folder.glob("model.*"):
        (renamed / path.name.replace("model", "other")).write_bytes(path.read_bytes())
    with open_source(renamed) as again:
        assert again.sha256() == source.sha256()


def test_an_archive_leaves_nothing_and_its_hash_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _archive(tmp_path / "d0.tar.gz", _tf1(tmp_path / "tf1"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with open_source(archive) as source:
        kept = source.read("class_net/class-predict/bias")
        assert source.sha256() == hashlib.sha256(archive.read_bytes()).hexdigest()
        assert list((tmp_path / "temporary").iterdir())
    assert list((tmp_path / "temporary").iterdir()) == []
    assert kept.tobytes() == _value("class_net/class-predict/bias").tobytes()


def test_the_state_file_chooses_and_its_folders_do_not_count(tmp_path: Path) -> None:
    folder = _tf1(_tf1(tmp_path / "two", prefix="model.ckpt-2"), prefix="model.ckpt-1")
    for written in ("model.ckpt-2", "/tmp/elsewhere/model.ckpt-2", "gs://bucket/../model.ckpt-2"):
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{written}"\nall_model_checkpoint_paths: "x"\n')
        with open_source(folder) as source:
            assert source.files[0].name == "model.ckpt-2.index"
        with open_source(_archive(tmp_path / "two.tar.gz", folder)) as source:
            assert source.label.endswith("/model.ckpt-2")


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with open_source(_tf1(tmp_path / "tf1", ema=False)) as source:
        with pytest.raises(InputError, match="expected a moving average of class_net.*, found only the other kind"):
            source.read("class_net/class-predict/bias", "ema")
        with pytest.raises(InputError, match="expected a raw value of x, found no such variable; look with"):
            source.read("x")


def test_raw_value_and_average_of_different_shapes(tmp_path: Path) -> None:
    name = "class_net/class-predict/bias"
    write_checkpoint(tmp_path / "model", [(name, np.zeros(2)), (name + EMA_SUFFIX, np.zeros(3))])
    with pytest.raises(
        InputError, match="expected one shape for .*bias, found \\[2\\] and for its moving average \\[3\\]"
    ):
        open_source(tmp_path)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        (_remove("model.index"), "", "expected model.index, which the file `checkpoint` names, found no .index file"),
        (_remove("model.index"), "model", "model.index: expected the checkpoint's index, found no such file"),
        (_remove("model.data-00000-of-00001"), "", "data-00000-of-00001: expected this shard beside its index"),
        (_remove("model.data-00000-of-00001"), "model.index", "expected this shard beside its index"),
        (_write("checkpoint", b"nonsense"), "", "expected `model_checkpoint_path: \"NAME\"` in its file `checkpoint`"),
        (_write("checkpoint", b'model_checkpoint_path: ".."'), "", "expected `model_checkpoint_path"),
        (_write("checkpoint", b'model_checkpoint_path: "\xff"'), "", "expected `model_checkpoint_path"),
        (_write("page.h5", b"<!DOCTYPE html><p>404"), "page.h5", "found a web page; download the file itself"),
        (_write("x.h5", b"version https://git-lfs.github.com/spec/v1\n"), "x.h5", "found a Git LFS pointer; fetch"),
        (_write("d0.pth", b"PK\x03\x04" + bytes(60)), "d0.pth", "found a zip or pickle file such as PyTorch's .pth"),
        (_write("d0.safetensors", b"\x10\0\0\0\0\0\0\0{" + bytes(60)), "d0.safetensors", "found a .safetensors file"),
        (_write("empty", b""), "empty", "found an empty file; copy or download it again"),
        (_write("noise", b"\x07" * 70), "noise", "found unknown content \\(0707070707070707\\); name another file"),
        (_write("v1.ckpt", bytes(60) + bytes.fromhex("57fb808b247547db")), "v1.ckpt", "such as a V1 checkpoint"),
        (_write("empty.index", b""), "empty.index", "footer: expected at least 48 bytes, found 0"),
        (lambda folder: None, "modle", "expected a checkpoint .*, found nothing; did you mean model"),
        (lambda folder: None, "no/such/folder", "found nothing; check the path"),
        (_write("cut.tar.gz", gzip.compress(bytes(9999))[:20]), "cut.tar.gz", "expected a whole .tar or .tar.gz"),
    ],
)  # fmt: skip
def test_one_message_for_each_mistake(tmp_path: Path, change: Callable[[Path], None], path: str, message: str) -> None:
    change(_tf1(tmp_path / "tf1"))
    with pytest.raises(InputError, match=message) as caught:
        open_source(tmp_path / "tf1" / path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_name_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint .*, found an empty folder; name another folder"):
        open_source(tmp_path)
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"x")
    with pytest.raises(InputError, match="the index of model.data-00000-of-00001 is missing, copy it too"):
        open_source(tmp_path)
    folder = _tf1(_tf1(tmp_path / "two", prefix="a"), prefix="b")
    (folder / "checkpoint").unlink()
    with pytest.raises(InputError, match="or a file `checkpoint` that names it, found 2: a.index, b.index; name one"):
        open_source(folder)
    _tf1(tmp_path / "saved").rename(tmp_path / "variables")
    (tmp_path / "variables" / "model.index").rename(tmp_path / "variables" / "variables.index")
    os.rename(tmp_path / "variables/model.data-00000-of-00001", tmp_path / "variables/variables.data-00000-of-00001")
    (tmp_path / "model.data-00000-of-00001").unlink()
    with open_source(tmp_path) as source:  # the layout of a SavedModel
        _check(source, "savedmodel", ema=True)
        assert source.meant(list(source.variables))[0] == "raw"


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", [("resnet/conv1/kernel", np.zeros(2)), ("global_step", np.array(1))])
    with pytest.raises(
        InputError, match="expected variables of google/automl's EfficientDet .*, found 2 other tensors"
    ):
        open_source(tmp_path)


def test_unknown_names_are_kept_apart(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", [("class_net/class-0/bias", np.zeros(2)), ("extra/kernel", np.zeros(2))])
    with open_source(tmp_path) as source:
        assert list(source.variables) == ["class_net/class-0/bias"] and source.unknown == ["extra/kernel"]


def test_messages_about_a_whole_checkpoint_name_it(tmp_path: Path) -> None:
    names = [f"{root}/class_net/classes/bias{VALUE_SUFFIX}" for root in ("a", "b")]
    graph = ("_CHECKPOINTABLE_OBJECT_GRAPH", np.array(b"", object))
    write_checkpoint(tmp_path / "model", [graph, *((name, np.zeros(2)) for name in names)])
    with pytest.raises(InputError, match="model: expected one model in the checkpoint, found 2") as caught:
        open_source(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_neither_tensorflow_nor_torch_is_imported(tmp_path: Path, repository: Path) -> None:
    import subprocess

    script = (
        "import sys; from porting.checkpoint.sources import open_source\n"
        "with open_source(sys.argv[1]) as source: source.read('class_net/class-predict/bias')\n"
        "print(sorted({'tensorflow', 'torch', 'h5py', 'google.protobuf'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(_tf1(tmp_path / "tf1"))]
    assert subprocess.check_output(command, cwd=repository, text=True).strip() == "[]"


def test_three_dialects_of_one_model(shared: Path) -> None:
    """lite0; the files' stem was saved under the name that Keras gave it (see below), its values follow from that."""
    sys.path.insert(0, str(shared / "golden"))
    import make_checkpoint

    rows = [line.split("\t") for line in (shared / "variables" / "lite0.tsv").read_text().splitlines()[1:]]
    shapes = {name: tuple(int(size) for size in shape.split("x") if size) for name, shape in rows}
    with open_source(shared / "dialects" / "lite0.h5") as h5, open_source(shared / "dialects" / "lite0_object") as tf2:
        assert (h5.dialect, tf2.dialect) == ("h5", "object")
        for source in (h5, tf2):
            assert {name: info.shape for name, info in source.variables.items()} == shapes
            assert not source.unknown and source.backbone_scope == "efficientnet-lite0"
        for name, shape in shapes.items():
            saved_as = name.replace("/stem/", "/stem_1/").replace("stem_1/conv2d/", "stem_1/conv2d_1/")
            expected = make_checkpoint.value(saved_as, shape)
            assert h5.read(name).tobytes() == tf2.read(name).tobytes() == expected.tobytes(), name


def test_a_trained_tf1_checkpoint(shared: Path) -> None:
    with open_source(shared / "shapes" / "checkpoint") as source:
        assert source.dialect == "tf1" and len(source.variables) == 709 and not source.unknown
        assert all(info.has_raw and info.has_ema for info in source.variables.values())
        assert all(np.isfinite(source.read(name, "ema")).all() for name in source.variables)
