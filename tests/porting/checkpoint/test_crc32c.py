"""The checksum and the packing of TensorFlow's checkpoints without the packages that do the same faster."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import cramjam
import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effdet_model.errors import InputError
from porting.checkpoint.snappy import unpack_snappy
from porting.crc32c import crc32c, numpy_crc32c


def test_known_values() -> None:
    """RFC 3720, B.4."""
    for data, expected in (
        (b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ):  # fmt: skip
        assert numpy_crc32c(data) == crc32c(data) == expected


@pytest.mark.parametrize("size", [*range(1, 70), 4095, 32767, 32768, 32769, 100_001, (16 << 20) + 5, 33 << 20])
def test_numpy_gives_the_same_as_google_crc32c(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert numpy_crc32c(data) == google_crc32c.value(data)
    assert numpy_crc32c(np.frombuffer(data, np.uint8), 0x1234ABCD) == google_crc32c.extend(0x1234ABCD, data)


@given(parts=st.lists(st.binary(max_size=300), max_size=6))
def test_continued_in_parts(parts: list[bytes]) -> None:
    crc = 0
    for part in parts:
        crc = numpy_crc32c(part, crc)
    assert crc == google_crc32c.value(b"".join(parts))


@settings(deadline=None)
@given(words=st.lists(st.binary(max_size=90), max_size=8), picks=st.lists(st.integers(0, 7), max_size=200))
def test_what_snappy_packs_is_unpacked(words: list[bytes], picks: list[int]) -> None:
    block = b"".join(words[pick % len(words)] for pick in picks) if words else b""
    for content in (block, bytes(100_000) + block, random.Random(1).randbytes(70_000) + block):
        assert unpack_snappy(bytes(cramjam.snappy.compress_raw(content)), "x", 1 << 20) == content


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=60))
def test_anything_else_is_unpacked_as_by_snappy_or_refused(data: bytes) -> None:
    try:
        expected = bytes(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError:
        expected = None
    try:
        found = unpack_snappy(data, "x", 1 << 20)
    except InputError:
        found = None
    assert found == expected or (data == b"" and found is None)


def test_every_cut_is_refused() -> None:
    packed = bytes(cramjam.snappy.compress_raw(b"abcdefgh" * 40 + bytes(range(200))))
    for end in range(len(packed)):
        with pytest.raises(InputError, match="x: expected"):
            unpack_snappy(packed[:end], "x", 1 << 20)
    with pytest.raises(InputError, match="a snappy block of plausible size"):
        unpack_snappy(packed, "x", 100)


def test_a_checkpoint_is_written_and_read_without_the_package(tmp_path: Path) -> None:
    """Written with google-crc32c here and read without it there, and a flipped bit is found."""
    code = (
        "import sys; sys.modules['google_crc32c'] = None\n"
        "import numpy as np; from pathlib import Path\n"
        "from porting.checkpoint.tensorbundle import TensorBundle\n"
        "from porting.checkpoint.write_tensorbundle import write_checkpoint\n"
        "with TensorBundle(Path(sys.argv[1])) as bundle:\n"
        "    tensors = {name: bundle.read(name) for name in bundle.entries}\n"
        "write_checkpoint(sys.argv[2], tensors.items())\n"
        "data = Path(sys.argv[2] + '.data-00000-of-00001'); content = bytearray(data.read_bytes())\n"
        "content[7] ^= 16; data.write_bytes(content)\n"
        "try: TensorBundle(Path(sys.argv[2])).read('a')\n"
        "except ValueError as error: print(error)\n"
    )
    from porting.checkpoint.write_tensorbundle import write_checkpoint

    tensors = {"a": np.arange(9000, dtype=np.float32), "b": np.array([b"one", b"two"], object)}
    (tmp_path / "again").mkdir()
    written = write_checkpoint(tmp_path / "model", tensors.items())
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "again" / "model")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "model.data-00000-of-00001, a: expected checksum" in done.stdout
    assert (tmp_path / "again" / written[1].name).read_bytes() == written[1].read_bytes(), "the same checksums"
