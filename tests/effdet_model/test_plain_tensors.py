"""Weight files from strangers: each refused with one message before anything is made from the numbers in it."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from effdet_model import InputError
from effdet_model import plain_tensors as limits
from effdet_model.weights import read_state_dict
from porting.weights.reader import WeightFile

ONE = torch.ones(1)


def complex_part() -> torch.Tensor:
    return torch.ones(2, dtype=torch.complex64).conj().imag


HOSTILE: dict[str, tuple[Callable[[], dict[Any, Any]], str]] = {
    "expanded": (lambda: {"a": ONE.expand(500_000, 500_000)}, r"'a', \[500000, 500000\] repeated from 4 bytes"),
    "strided": (lambda: {"a": torch.ones(9).as_strided((5, 5), (1, 1))}, r"'a', \[5, 5\] repeated from 36 bytes"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "'a', of layout sparse_coo"),
    "csr": (lambda: {"a": torch.eye(3).to_sparse_csr()}, "'a', of layout sparse_csr"),
    "quantized": (lambda: {"a": torch.quantize_per_tensor(ONE, 0.1, 0, torch.qint8)}, "'a', quantized"),
    "meta": (lambda: {"a": torch.empty(10**6, 10**6, device="meta")}, r"'a', without values \(on device meta\)"),
    "complex": (lambda: {"a": ONE.to(torch.complex64)}, "'a', of dtype complex64"),
    "negated": (lambda: {"a": complex_part()}, "'a', a part of a complex one"),
    "float8": (lambda: {"a": ONE.to(torch.float8_e4m3fn)}, "'a', of dtype float8_e4m3fn"),
    "number as name": (lambda: {1: ONE}, "expected names that are text, found 1 of type int"),
    "tuple as name": (lambda: {("a", 2): ONE}, r"expected names that are text, found \('a', 2\) of type tuple"),
    "long name": (lambda: {"a" * 76_000: ONE}, "expected names of 1 to 1000 characters, found one of 76000: 'aaa"),
    "no name": (lambda: {"": ONE}, "expected names of 1 to 1000 characters, found one of 0: ''"),
    "dimensions": (lambda: {"a": torch.ones([1] * 9)}, r"'a', of 9 dimensions \(at most 8\)"),
    "nested": (lambda: {"a": {"b": ONE}}, r"expected a plain state_dict \(names to tensors\), found a dict"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [*HOSTILE])
def test_what_is_no_plain_tensor_is_refused_at_little_cost(case: str, tmp_path: Path) -> None:
    make, message = HOSTILE[case]
    path = tmp_path / "weights.pth"
    torch.save(make(), path)
    for read in (read_state_dict, WeightFile):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_many_views_of_one_large_tensor(tmp_path: Path) -> None:
    """Each fits what the file holds; copied one by one they would be a thousand times as large."""
    values = torch.ones(10**6)
    path = tmp_path / "weights.pth"
    torch.save({str(index): values.view(-1) for index in range(1000)}, path)
    with pytest.raises(InputError, match=r"expected tensors of at most 4 times its 4\.\d MB, found 4000 MB"):
        read_state_dict(path)
    torch.save({"a": values, "tied": values.view(1000, 1000)}, path)
    assert read_state_dict(path)["tied"].shape == (1000, 1000)


def test_number_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_TENSORS", 30)
    path = tmp_path / "weights.pth"
    torch.save({str(index): ONE for index in range(31)}, path)
    with pytest.raises(InputError, match="expected at most 30 tensors, found 31"):
        read_state_dict(path)
    torch.save({str(index): torch.ones(1) for index in range(100)}, path)
    with pytest.raises(InputError, match=r"expected at most 30 tensors, found 10\d parts"):
        read_state_dict(path)
    torch.save({str(index): torch.ones(1) for index in range(30)}, path)
    assert len(read_state_dict(path)) == 30


def rewritten(path: Path, compression: int = zipfile.ZIP_STORED, pickle: bytes | None = None) -> None:
    with zipfile.ZipFile(path) as old:
        parts = {part.filename: old.read(part) for part in old.infolist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in parts.items():
            new.writestr(name, pickle if pickle is not None and name.endswith(".pkl") else data)


def test_a_compressed_archive_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(10**6)}, path)
    rewritten(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="expected parts stored as they are, found 'weights/data.pkl' compressed"):
        read_state_dict(path)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("module", [b"builtins", b"__builtin__"])
def test_a_pickle_that_takes_memory_by_a_number(archive: bool, module: bytes, tmp_path: Path) -> None:
    hostile = b"\x80\x02}X\x01\x00\x00\x00ac" + module + b"\nbytearray\nJ\xff\xff\xff\x7f\x85Rs."
    path = tmp_path / "weights.pth"
    torch.save({"a": ONE}, path)
    if archive:
        rewritten(path, pickle=hostile)
    else:
        path.write_bytes(hostile)
    tracemalloc.start()
    with pytest.raises(InputError, match="expected nothing but tensors and plain values, found a call of bytearray"):
        read_state_dict(path)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("pickle", [
    b"\x80\x02" + b"(" * 100_000 + b".", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", b"\x80\x02K\x01.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nK\x01\x85R.", b"\x80\x02}K\x05K\x05s.", b"\x80\x02h\x05.",
    b"\x80\x02R.", b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.",
])  # fmt: skip
def test_a_broken_or_deep_pickle_is_one_message(pickle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": ONE}, path)
    rewritten(path, pickle=pickle)
    with pytest.raises(InputError, match=r"expected a (PyTorch|plain) state_dict") as caught:
        read_state_dict(path)
    assert len(str(caught.value)) < 600 and "Re-running" not in str(caught.value)


def test_dictionaries_that_name_each_other_many_times(tmp_path: Path) -> None:
    """Ten thousand million paths through four dictionaries of a few hundred names each."""
    inner: dict[str, Any] = {"epoch": 1}
    for _ in range(5):
        inner = {str(index): inner for index in range(300)}
    path = tmp_path / "weights.pth"
    torch.save({"all": inner, ("b", 2): 1}, path)
    with pytest.raises(InputError, match=r"expected a plain state_dict .* a dict with all, \('b', 2\)"):
        read_state_dict(path)


def safetensors(path: Path, header: dict[str, Any], data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": entry("C64", [1], 8)}, 8, "'a', of dtype 'C64'"),
        ({"a": entry("F8_E4M3", [4], 4)}, 4, "'a', of dtype 'F8_E4M3'"),
        ({"a": entry("F32", [1] * 9, 4)}, 4, "'a', of 9 dimensions"),
        ({"a" * 1001: entry("F32", [1], 4)}, 4, "names of 1 to 1000 characters, found one of 1001"),
        ({str(i): entry("F32", [0], 0) for i in range(20_001)}, 0, "at most 20000 tensors, found 20001"),
        ({"a": entry("F32", [500_000, 500_000], 4)}, 4, "expected a safetensors file"),
    ],
)  # fmt: skip
def test_hostile_safetensors(header: dict[str, Any], size: int, message: str, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "weights.safetensors", header, bytes(size))
    for read in (read_state_dict, WeightFile):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_plain_tensors_come_as_they_are(dtype: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    values = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    state = {"whole": values, "transposed": values.t(), "part": values[:1], "empty": values[:0], "scalar": values[0, 0]}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    for name, tensor in read_state_dict(path).items():
        assert tensor.dtype == values.dtype and torch.equal(tensor, state[name]), name
