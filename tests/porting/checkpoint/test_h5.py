"""Keras .h5 files: read as written, and nothing followed that leads out of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from effdet_model.errors import InputError
from porting.checkpoint.h5 import H5Weights


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.RandomState(0)
    return {
        "net/a/kernel:0": rng.randn(3, 3, 2, 4).astype(np.float32),
        "net/a/bias:0": rng.randn(4).astype(np.float32),
        "net/scalar:0": np.array(3, np.float32),
        "net/half:0": rng.randn(5).astype(np.float16),
        "net/big:0": rng.randn(5).astype(">f4"),
        "net/empty:0": np.zeros((0, 2), np.float32),
    }


def _write(path: Path, weights: dict[str, np.ndarray], layer: str = "net") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer, "nothing"]
        file.create_group("nothing").attrs["weight_names"] = np.zeros(0)
        group = file.create_group(layer)
        group.attrs["weight_names"] = list(weights)
        for name, array in weights.items():
            group.create_dataset(name, data=array)
    return path


def test_reads_bit_by_bit(tmp_path: Path) -> None:
    source = H5Weights(_write(tmp_path / "w.h5", _weights()))
    assert set(source.entries) == {f"net/{name}" for name in _weights()}
    for name, array in _weights().items():
        read = source.read(f"net/{name}")
        assert source.entries[f"net/{name}"].shape == read.shape == np.shape(array)
        assert source.entries[f"net/{name}"].dtype == read.dtype.name
        assert read.dtype.isnative and np.array_equal(read, array) and not read.flags.writeable
    source.close()


def test_plain_filters_bytes_names_and_numbered_attributes(tmp_path: Path) -> None:
    array = np.arange(4000, dtype=np.float32)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        group = file.create_group("model_weights/net")
        group.parent.attrs["layer_names"] = np.array([b"net"])
        group.attrs["weight_names0"] = np.array([b"x:0"])
        group.attrs["weight_names1"] = np.array([b"y:0"])
        group.create_dataset("x:0", data=array, compression="gzip", shuffle=True, fletcher32=True)
        group.create_dataset("y:0", data=array, chunks=(100,))
    source = H5Weights(tmp_path / "w.h5")
    assert list(source.entries) == ["net/x:0", "net/y:0"]
    assert np.array_equal(source.read("net/x:0"), array) and np.array_equal(source.read("net/y:0"), array)


def _external_link(file: h5py.File, folder: Path) -> None:
    _write(folder / "other.h5", {"x:0": np.ones(2)})
    file["net"]["bad:0"] = h5py.ExternalLink("other.h5", "/net/x:0")


def _external_data(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(8))
    file["net"].create_dataset("bad:0", (2,), "f4", external=[(str(folder / "secret"), 0, 8)])


def _virtual_data(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "net/x:0", (2,))
    file["net"].create_virtual_dataset("bad:0", layout)


def _unwritten(file: h5py.File, shape: tuple[int, ...], **options: object) -> None:
    file["net"].create_dataset("bad:0", shape, "f4", **options)


def _deep(file: h5py.File, folder: Path) -> None:
    file["net"]["bad:0"] = file["net"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_external_link, "expected hard links inside the file alone \\('bad:0' of net/bad:0\\), found a ExternalLink"),
        (lambda file, _: file["net"].__setitem__("bad:0", h5py.SoftLink("/net/good:0")), "found a SoftLink"),
        (lambda file, _: None, "expected hard links inside the file alone .* found no such member"),
        (_external_data, "expected net/bad:0 inside the file, found external or virtual data"),
        (_virtual_data, "expected net/bad:0 inside the file, found external or virtual data"),
        (_deep, "expected net/bad:0 to be a dataset, found Group"),
        (lambda file, _: _unwritten(file, (1 << 20,)), "written in full, 4194304 bytes .* found 0 stored"),
        (lambda file, _: _unwritten(file, (1 << 40,), chunks=(64,)), "written in full, .* found 0 stored"),
        (lambda file, _: _unwritten(file, (1,) * 9), "to be numbers of rank up to 8, found"),
        (lambda file, _: file["net"].create_dataset("bad:0", data=[b"text"]), "to be numbers of rank"),
        (lambda file, _: file["net"].create_dataset("bad:0", data=h5py.Empty("f4")), "to be numbers of rank"),
        (lambda file, _: file["net"].create_dataset("bad:0", data=np.zeros(2, [("a", "f4")])), "to be numbers of rank"),
        (lambda file, _: file["net"].create_dataset("bad:0", data=np.zeros(2, np.complex64)), "to be numbers of rank"),
        (
            lambda file, _: file["net"].create_dataset("bad:0", data=np.zeros(2, np.longdouble)),
            "numbers of at most 8 bytes",
        ),
        (
            lambda file, _: file["net"].create_dataset("bad:0", data=np.zeros(500), compression="lzf"),
            "with the filters deflate, shuffle, fletcher32, found \\[32000\\]",
        ),
    ],
)
def test_what_a_weight_file_does_not_need_is_refused(
    tmp_path: Path, spoil: Callable[[h5py.File, Path], None], message: str
) -> None:
    path = _write(tmp_path / "w.h5", {"good:0": np.zeros(2)})
    with h5py.File(path, "a") as file:
        file["net"].attrs["weight_names"] = ["good:0", "bad:0"]
        spoil(file, tmp_path)
    with pytest.raises(InputError, match=message):
        H5Weights(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../net/good:0"], "expected hard links inside the file alone \\('..' of"),
        (["/net/good:0"], "expected hard links inside the file alone \\('' of"),
        (["good:0", "good:0"], "expected each weight once .* found net/good:0 again"),
        (["good:0/x"], "expected a group above 'x' of net/good:0/x, found Dataset"),
        (np.zeros(2), "expected text in weight_names, found float64"),
        (np.zeros((400, 400)), "expected at most 100000 names in weight_names, found 160000"),
    ],
)
def test_wrong_lists_of_names_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    path = _write(tmp_path / "w.h5", {"good:0": np.zeros(2)})
    with h5py.File(path, "a", track_order=True, libver="latest") as file:
        del file["net"].attrs["weight_names"]
        if isinstance(names, np.ndarray) and names.size > 1000:
            file.move("net", "old")
            group = file.create_group("net")
            group.attrs["weight_names"] = names
        else:
            file["net"].attrs["weight_names"] = names
    with pytest.raises(InputError, match=message):
        H5Weights(path)


def test_an_external_group_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "other.h5", {"x:0": np.ones(2)})
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["net"]
        file["net"] = h5py.ExternalLink("other.h5", "/net")
    with pytest.raises(InputError, match="'net' of the root\\), found a ExternalLink"):
        H5Weights(tmp_path / "w.h5")


def test_another_hdf5_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data"] = 1
    with pytest.raises(InputError, match="expected a Keras weight file .* found an HDF5 file with \\['data'\\]"):
        H5Weights(tmp_path / "w.h5")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = _write(tmp_path / "w.h5", _weights()).read_bytes()
    cut = tmp_path / "cut.h5"
    for length in range(0, len(content), 97):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match="expected a whole HDF5 weight file, found, on the way to .*; copy or"):
            H5Weights(cut)


def test_the_format_that_leaves_out_the_heads_batch_norms(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file["layers/class_net/classes/vars/0"] = np.zeros((3, 3, 64, 1), np.float32)
    found = r"weights\.h5: expected all .* batch norms of its heads: .*save_weights\(PREFIX\)"
    with pytest.raises(InputError, match=found) as caught:
        H5Weights(tmp_path / "model.weights.h5")
    assert len(str(caught.value)) < 600 + len(str(tmp_path))
