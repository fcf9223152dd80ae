"""The checkpoint reader and writer, against TensorFlow's own (in a process of its own) and against damage."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.fuzz_tensorbundle import fuzz, missed, packed_block
from effdet_model.errors import InputError
from porting.checkpoint import sstable
from porting.checkpoint.sstable import read_table
from porting.checkpoint.tensorbundle import TensorBundle
from porting.checkpoint.wire import fields, read_varint, write_varint
from porting.checkpoint.write_tensorbundle import table_bytes, write_checkpoint

DTYPES = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128".split()

# Writes four checkpoints, reads them and ours back with TensorFlow's reader, restores ours with tf.train.Saver.
TENSORFLOW = """
import json, sys
import numpy as np
import tensorflow as tf
folder, ours = sys.argv[1:3]
rng = np.random.RandomState(0)
tensors = {f"t/{name}": tf.cast(tf.constant(rng.randint(0, 2, (3, 2))), name) for name in sys.argv[3].split()}
tensors["t/scalar"] = tf.constant(7, tf.int64)
tensors["t/empty"] = tf.zeros([0, 4])
tensors["t/bfloat16"] = tf.cast(tf.constant(rng.randn(5)), tf.bfloat16)
tensors["t/text"] = tf.constant([[b"a", b""], [b"long" * 100, b"\\xff\\x00"]])
def save(prefix, items):
    names, values = zip(*items)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
save(f"{folder}/dtypes", tensors.items())
parts = []
for number in range(3):
    parts.append(f"{folder}/part{number}")
    save(parts[-1], [(f"s/{number}/{i}", tf.constant(rng.randn(4, i + 1))) for i in range(5)])
tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=f"{folder}/sharded")
save(f"{folder}/many", [(f"scope_{i % 7}/" + "x" * 90 + f"/{i}", tf.constant([i])) for i in range(6000)])
tf.raw_ops.SaveV2(prefix=f"{folder}/sliced", tensor_names=["v", "v", "whole"],
                  shape_and_slices=["4 2 0,1:-", "4 2 1,3:-", ""],
                  tensors=[tf.zeros([1, 2]), tf.ones([3, 2]), tf.constant(1.5)])
def dump(prefix):
    reader = tf.train.load_checkpoint(prefix)
    out = {}
    for name in reader.get_variable_to_shape_map():
        value = reader.get_tensor(name)
        if getattr(value, "dtype", None) == tf.bfloat16.as_numpy_dtype:
            value = value.astype(np.float32)
        out[name] = value
    return out
result = {name: dump(f"{folder}/{name}") for name in ("dtypes", "sharded", "many")}
for name in ("ours", "packed"):
    result[name] = dump(f"{ours}/{name}")
result["latest"] = tf.train.latest_checkpoint(ours)
tf1 = tf.compat.v1
with tf.Graph().as_default(), tf1.Session() as session:
    floats = {name: tf1.get_variable(name, value.shape, value.dtype) for name, value in result["ours"].items()
              if value.dtype in (np.float32, np.int64)}
    tf1.train.Saver().restore(session, f"{ours}/ours")
    result["restored"] = session.run(floats)
def plain(value):
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, str):
        return value
    value = np.asarray(value, object) if isinstance(value, bytes) else np.asarray(value)
    text = value.dtype == object
    data = [item.hex() for item in value.ravel().tolist()] if text else value.tobytes().hex()
    return {"__dtype__": "object" if text else value.dtype.name, "shape": value.shape, "data": data}
with open(f"{folder}/result.json", "w") as file:
    json.dump(plain(result), file)
"""


def _sample() -> list[tuple[str, np.ndarray]]:
    rng = np.random.RandomState(1)
    tensors = [(f"ours/{name}", rng.randint(0, 2, (2, 3)).astype(name)) for name in DTYPES]
    tensors += [(f"net/{number}/kernel", rng.randn(2, number % 5, 3).astype(np.float32)) for number in range(300)]
    tensors += [("net/0/WSM", np.array(0.5, np.float32)), ("global_step", np.array(300))]
    tensors += [("text", np.array([b"a", b"", b"b" * 300], object))]
    return tensors


@pytest.fixture(scope="session")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The folder TensorFlow wrote to, the folder we wrote to, what TensorFlow read in both."""
    theirs, ours = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours")
    write_checkpoint(ours / "ours", _sample())
    write_checkpoint(ours / "packed", _sample())
    index = ours / "packed.index"
    index.write_bytes(table_bytes(dict(read_table(index.read_bytes(), "")), block_bytes=500, snappy=packed_block))
    write_checkpoint(ours / "ours", _sample())
    subprocess.run(
        [sys.executable, "-c", TENSORFLOW, str(theirs), str(ours), " ".join(DTYPES)],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )
    return theirs, ours, json.loads((theirs / "result.json").read_text(), object_hook=_array_or_dict)


def _array_or_dict(value: dict[str, Any]) -> Any:
    """The array that TensorFlow's process wrote as dtype, shape and hexadecimal bytes; other dicts as they are."""
    if "__dtype__" not in value:
        return value
    if value["__dtype__"] == "object":
        array = np.empty(len(value["data"]), object)
        array[:] = [bytes.fromhex(item) for item in value["data"]]
    else:
        array = np.frombuffer(bytes.fromhex(value["data"]), value["__dtype__"])
    return array.reshape(value["shape"])


def _equal(ours: np.ndarray, theirs: Any) -> bool:
    theirs = np.asarray(theirs, object) if isinstance(theirs, bytes) else np.asarray(theirs)
    if ours.dtype == object:
        return ours.shape == theirs.shape and ours.tolist() == theirs.tolist()
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("name", ["dtypes", "sharded", "many"])
def test_reads_what_tensorflow_wrote_bit_by_bit(tensorflow: tuple[Path, Path, dict[str, Any]], name: str) -> None:
    theirs, _, result = tensorflow
    with TensorBundle(theirs / name) as bundle:
        assert set(bundle.entries) == set(result[name])
        assert all(_equal(bundle.read(key), value) for key, value in result[name].items())
        assert all(bundle.entries[key].shape == np.shape(value) for key, value in result[name].items())
        assert len(bundle.shard_paths) == (3 if name == "sharded" else 1)
    if name == "many":
        assert (theirs / "many.index").stat().st_size > 2 * (256 << 10) / 3  # more than one block in TensorFlow


@pytest.mark.parametrize("name", ["ours", "packed"])
def test_tensorflow_reads_what_we_wrote(tensorflow: tuple[Path, Path, dict[str, Any]], name: str) -> None:
    _, ours, result = tensorflow
    expected = dict(_sample())
    assert set(result[name]) == set(expected)
    with TensorBundle(ours / name) as bundle:
        for key, array in expected.items():
            assert _equal(array if isinstance(array, np.ndarray) else np.asarray(array), result[name][key]), key
            assert _equal(bundle.read(key), result[name][key]), key
    assert result["latest"] == str(ours / "ours")


def test_the_tf1_saver_restores_what_we_wrote(tensorflow: tuple[Path, Path, dict[str, Any]]) -> None:
    expected = dict(_sample())
    restored = tensorflow[2]["restored"]
    assert len(restored) > 300
    assert all(_equal(np.asarray(expected[name]), value) for name, value in restored.items())


def test_partitioned_variables_are_refused_at_reading(tensorflow: tuple[Path, Path, dict[str, Any]]) -> None:
    with TensorBundle(tensorflow[0] / "sliced") as bundle:
        assert set(bundle.entries) == {"v", "whole"} and bundle.read("whole") == 1.5
        with pytest.raises(InputError, match="expected v in one piece, found it partitioned into 2 slices"):
            bundle.read("v")


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        contents.append([path.read_bytes() for path in write_checkpoint(folder / "model", iter(_sample()))])
    assert contents[0] == contents[1]
    assert contents[0][2] == b'model_checkpoint_path: "model"\nall_model_checkpoint_paths: "model"\n'


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: not name.startswith("\0")),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
        max_size=12,
    ),
    block_bytes=st.sampled_from([1, 50, 100_000]),
    compressed=st.booleans(),
)
def test_round_trip(tmp_path: Path, tensors: dict[str, np.ndarray], block_bytes: int, compressed: bool) -> None:
    prefix = tmp_path / "model"
    write_checkpoint(prefix, tensors.items())
    index = tmp_path / "model.index"
    entries = dict(read_table(index.read_bytes(), ""))
    index.write_bytes(table_bytes(entries, block_bytes, packed_block if compressed else None))
    with TensorBundle(prefix) as bundle:
        assert set(bundle.entries) == set(tensors)
        for name, array in tensors.items():
            read = bundle.read(name)
            assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
            assert not read.flags.writeable and read.flags.aligned


def test_numbers_are_views_of_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", [("a", np.arange(4, dtype=np.float32)), ("b", np.arange(3.0))])
    bundle = TensorBundle(tmp_path / "model")
    array = bundle.read("a")
    assert not array.flags.owndata
    bundle.close()
    assert array.tolist() == [0, 1, 2, 3]


def test_all_damage_is_detected(tmp_path: Path) -> None:
    results = fuzz(tmp_path, resealed=400)
    assert not [title for title, counts in results.items() if missed(title, counts)]
    for title, counts in results.items():
        assert counts.tried == counts.detected + counts.harmless + counts.changed + counts.crashed > 50
        if "resealed" not in title:
            assert counts.detected == counts.tried, title
        assert counts.slowest_s < 5, title


def _written(tmp_path: Path) -> tuple[Path, dict[bytes, bytes]]:
    write_checkpoint(tmp_path / "model", [("a", np.zeros(4, np.float32)), ("b", np.zeros((), np.int64))])
    return tmp_path / "model", dict(read_table((tmp_path / "model.index").read_bytes(), ""))


def _entry(dtype: int = 1, dims: tuple[int, ...] = (4,), **numbers: int) -> bytes:
    shape = b"".join(b"\x12" + write_varint(len(size)) + size for size in (b"\x08" + write_varint(d) for d in dims))
    out = b"\x08" + write_varint(dtype) + b"\x12" + write_varint(len(shape)) + shape
    for tag, name in ((b"\x18", "shard"), (b"\x20", "offset"), (b"\x28", "size")):
        out += tag + write_varint(numbers.get(name, 16 if name == "size" else 0))
    return out + b"\x35" + bytes(4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"a", _entry(dims=(5,)), "a: expected 20 bytes for shape \\[5\\], found 16"),
        (b"a", _entry(dims=(1 << 62, 4)), "expected at most 32 sizes of 0 or more"),
        (b"a", _entry(dims=(0, 1 << 62), size=0), "expected at most 32 sizes of 0 or more"),
        (b"a", _entry(dims=(1,) * 33), "expected at most 32 sizes of 0 or more"),
        (b"a", _entry(dims=((1 << 64) - 1,)), "expected at most 32 sizes of 0 or more"),
        (b"a", _entry(offset=1 << 40), "expected 1099511627792 bytes or more \\(for a\\), found 24"),
        (b"a", _entry(offset=(1 << 64) - 8), "expected shard, offset and size of 0 or more, found 0, -8, 16"),
        (b"a", _entry(shard=3), "expected a in one of 1 shards, found shard 3"),
        (b"a", _entry(dtype=20), "expected a numeric or string tensor, found TensorFlow dtype 20"),
        (b"a", _entry(dtype=7, dims=(1 << 40,)), "expected 1099511627776 bytes for shape"),
        (b"a", b"\x08\x01\x12\x02\x18\x01", "expected a known rank, found an unknown one"),
        (b"a", b"\x0b", "expected a field of wire type 0, 1, 2 or 5, found type 3"),
        (b"a", b"\x12\x7f", "expected 127 bytes for field 2, found 0"),
        (b"a", b"\x35\x00", "expected 4 bytes for field 6, found 1"),
        (b"a", b"\x0a\x00", "expected an integer field, found wire type 2"),
        (b"a", b"\x00\x00", "expected a field number above 0, found 0"),
        (b"\xff", _entry(), "expected tensor names in UTF-8"),
        (b"", b"", "expected 1 to 100000 shards, found 0"),
        (b"", b"\x08\x80\x80\x80\x80\x08", "expected 1 to 100000 shards"),
        (b"", b"\x08\x01\x10\x01", "expected a little-endian checkpoint, found a big-endian one"),
        (b"", b"\x08\x01\x1a\x02\x10\x09", "expected checkpoint format 1, found one for readers of format 9"),
        (b"", b"\x08\x02", "data-00000-of-00002: expected this shard beside its index \\(2 shards"),
    ],
)  # fmt: skip
def test_wrong_entries_with_right_checksums(tmp_path: Path, key: bytes, value: bytes, message: str) -> None:
    prefix, entries = _written(tmp_path)
    (tmp_path / "model.index").write_bytes(table_bytes({**entries, key: value}))
    with pytest.raises(InputError, match=message):
        TensorBundle(prefix)


def test_a_table_without_header(tmp_path: Path) -> None:
    prefix, entries = _written(tmp_path)
    del entries[b""]
    (tmp_path / "model.index").write_bytes(table_bytes(entries))
    with pytest.raises(InputError, match="expected a checkpoint header as first entry, found b'a'"):
        TensorBundle(prefix)
    (tmp_path / "model.index").write_bytes(table_bytes({}))
    with pytest.raises(InputError, match="expected a checkpoint header as first entry, found nothing"):
        TensorBundle(prefix)


_END = bytes(4) + b"\1\0\0\0"  # one restart position, at 0


def _sealed(block: bytes, kind: int = 0) -> bytes:
    return block + bytes([kind]) + sstable.masked_crc(block + bytes([kind])).to_bytes(4, "little")


def _table(block: bytes, kind: int = 0, limit: bytes = b"zzz") -> bytes:
    """A table of one data block, its checksums right whatever the block holds."""
    data, empty = _sealed(block, kind), _sealed(_END)
    handle = write_varint(0) + write_varint(len(block))
    index = (
        write_varint(0) + write_varint(len(limit)) + write_varint(len(handle)) + limit + handle + bytes(4) + b"\1\0\0\0"
    )
    footer = write_varint(len(data)) + write_varint(8)
    footer += write_varint(len(data) + len(empty)) + write_varint(len(index))
    return data + empty + _sealed(index) + footer.ljust(40, b"\0") + sstable.MAGIC


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_table(b"\x00\x01\x00b\x00\x01\x00a" + _END), "expected keys in rising order, found 'a' after 'b'"),
        (_table(b"\x00\x01\x00a\x00\x01\x00a" + _END), "expected keys in rising order"),
        (_table(b"\x05\x01\x00a" + _END), "expected an entry inside its block, found 5 shared"),
        (_table(b"\x00\x7f\x00a" + _END), "expected an entry inside its block"),
        (_table(b"\x80" * 20 + _END), "expected a varint of at most 64 bits"),
        (_table(b"\x00\x01"), "expected a block with restart positions"),
        (_table(b"\xff\xff\xff\xff"), "expected a block with restart positions"),
        (_table(b"\x00\x01\x00b" + _END, limit=b"a"), "expected keys up to 'a', found 'b'"),
        (_table(_END, kind=2), "expected compression 0 \\(none\\) or 1 \\(snappy\\), found 2"),
        (_table(b"\xff\xff\xff\xff\x0f", kind=1), "expected a snappy block of plausible size, found 4294967295"),
        (_table(b"\x10\xff\xff", kind=1), "expected a snappy block, found"),
        (_table(b"", kind=1), "expected a varint"),
        (bytes(48), "expected the table magic"),
        (b"short", "expected at least 48 bytes, found 5"),
        (b"\x00\x00\x00\xc8\x01".ljust(40, b"\0") + sstable.MAGIC, "expected a block inside the 0 bytes"),
        (b"\x00\x00\x00\x00\x01".ljust(40, b"\0") + sstable.MAGIC, "expected zero padding, found other bytes"),
    ],
)
def test_malformed_tables(table: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_table(table, "x.index"))


def test_what_a_table_may_unpack_to_is_bounded() -> None:
    many = cramjam.snappy.compress_raw(b"\x00\x01\x00b" + bytes(40 << 20))
    with pytest.raises(InputError, match="expected"):
        list(read_table(_table(bytes(many), kind=1), "x.index"))
    growing = b"".join(b"\x00\x04\x00" + number.to_bytes(4, "big") for number in range(sstable.MAX_ENTRIES + 1))
    with pytest.raises(InputError, match=f"an index of at most {sstable.MAX_ENTRIES} names"):
        list(read_table(_table(growing + _END, limit=b"\xff" * 5), "x.index"))
    long_keys = b"\x00" + write_varint(60_000) + b"\x00" + b"a" * 60_000 + (write_varint(60_000) + b"\x01\x00b") * 5000
    with pytest.raises(InputError, match="expected"):
        list(read_table(_table(long_keys + _END), "x.index"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "model.index").unlink(),
            "model.index: expected the checkpoint's index, found no such",
        ),
        (lambda folder: (folder / "model.data-00000-of-00001").unlink(), "expected this shard beside its index"),
        (
            lambda folder: (folder / "model.data-00000-of-00001").write_bytes(b""),
            "expected 24 bytes or more \\(for b\\)",
        ),
        (lambda folder: (folder / "model.index").write_bytes(b""), "footer: expected at least 48 bytes, found 0"),
    ],
)
def test_missing_and_empty_files(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    prefix, _ = _written(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        TensorBundle(prefix)


def test_a_flipped_byte_names_the_tensor_and_both_checksums(tmp_path: Path) -> None:
    prefix, _ = _written(tmp_path)
    path = tmp_path / "model.data-00000-of-00001"
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    bundle = TensorBundle(prefix)
    assert bundle.read("b") == 0
    with pytest.raises(
        InputError, match="data-00000-of-00001, a: expected checksum [0-9a-f]{8}, found [0-9a-f]{8}; copy"
    ):
        bundle.read("a")
    with pytest.raises(InputError, match="expected a tensor 'aa', found .*; look with `inspect`"):
        bundle.read("aa")


def test_the_writer_refuses_what_a_checkpoint_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected each name once, found 'a' again"):
        write_checkpoint(tmp_path / "model", [("a", np.zeros(1)), ("a", np.zeros(1))])
    with pytest.raises(InputError, match="expected numbers for a, found dtype datetime64"):
        write_checkpoint(tmp_path / "model", [("a", np.zeros(1, "M8[s]"))])
    with pytest.raises(RuntimeError):
        write_checkpoint(tmp_path / "model", (_failing() for _ in range(1)))
    assert list(tmp_path.iterdir()) == []


def _failing() -> tuple[str, np.ndarray]:
    raise RuntimeError


@given(value=st.integers(0, (1 << 64) - 1))
def test_varints(value: int) -> None:
    encoded = write_varint(value)
    assert read_varint(encoded, 0, len(encoded), "") == (value, len(encoded))


@given(content=st.binary(max_size=60))
def test_any_bytes_are_fields_or_an_error(content: bytes) -> None:
    with contextlib.suppress(InputError):
        assert all(number > 0 for number, _, _ in fields(content, "x"))
