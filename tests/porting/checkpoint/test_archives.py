"""Archives: only the files of a checkpoint come out, under names of our own; everything odd is refused."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from effdet_model.errors import InputError
from porting.checkpoint import archives
from porting.checkpoint.archives import unpack

INDEX, DATA = "efficientdet-d0/model.index", "efficientdet-d0/model.data-00000-of-00001"


def _add(archive: tarfile.TarFile, name: str, content: bytes = b"x", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def _make(path: Path, fill: Callable[[tarfile.TarFile], None], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        _add(archive, "efficientdet-d0", b"", type=tarfile.DIRTYPE)
        _add(archive, "efficientdet-d0/checkpoint", b'model_checkpoint_path: "model"\n')
        _add(archive, DATA, bytes(70_000))
        _add(archive, INDEX, b"index")
        fill(archive)
    return path


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_the_official_layout(tmp_path: Path, mode: str) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        _add(archive, "efficientdet-d0/model.meta", bytes(9))
        _add(archive, "efficientdet-d0/._model.index")
        _add(archive, "efficientdet-d0/README.md")

    unpacked = unpack(_make(tmp_path / "a", fill, mode))
    folder = Path(unpacked.folder.name)
    assert unpacked.files["model.index"].read_bytes() == b"index"
    assert unpacked.files["model.data-00000-of-00001"].read_bytes() == bytes(70_000)
    assert sorted(path.name for path in folder.iterdir()) == ["1.data-00000-of-00001", "1.index", "checkpoint"]
    assert unpacked.skipped == ["model.meta", "._model.index", "README.md"]
    unpacked.close()
    assert not folder.exists()


def _type(kind: bytes, **fields: object) -> Callable[[tarfile.TarFile], None]:
    return lambda archive: _add(archive, "efficientdet-d0/other.index", b"", type=kind, **fields)


def _header_alone(kind: bytes, size: int) -> Callable[[tarfile.TarFile], None]:
    member = tarfile.TarInfo("model.h5")
    member.size, member.type = size, kind

    def fill(archive: tarfile.TarFile) -> None:
        assert archive.fileobj is not None
        archive.fileobj.write(member.tobuf())

    return fill


def _many(archive: tarfile.TarFile) -> None:
    for number in range(50):
        _add(archive, f"{number}.txt")


def _named(name: str, content: bytes = b"x") -> Callable[[tarfile.TarFile], None]:
    return lambda archive: _add(archive, name, content)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (_named("../model.h5"), "expected names that stay in the archive, found '../model.h5'"),
        (_named("a/../../model.h5"), "expected names that stay in the archive"),
        (_named("a\\..\\model.h5"), "expected names that stay in the archive"),
        (_named("/etc/model.h5"), "expected names relative to the archive, found the absolute name '/etc/model.h5'"),
        (_named("C:\\model.h5"), "expected names relative to the archive"),
        (_named("../README"), "expected names that stay in the archive"),
        (_type(tarfile.SYMTYPE, linkname="/etc/passwd"), "found the link .* -> '/etc/passwd'"),
        (_type(tarfile.LNKTYPE, linkname=INDEX), "expected regular files alone, found the link"),
        (_type(tarfile.CHRTYPE), "found the device, pipe or special file 'efficientdet-d0/other.index'"),
        (_type(tarfile.BLKTYPE), "found the device"),
        (_type(tarfile.FIFOTYPE), "found the device, pipe"),
        (_named("elsewhere/model.index"), "expected each file once, found two of the name 'model.index'"),
        (_named("model.h5", bytes(3 << 20)), "expected at most 2097152 bytes unpacked, found"),
        (_named("README.md", bytes(3 << 20)), "expected at most 2097152 bytes unpacked"),
        (
            _many,
            "expected at most 40 members, found more",
        ),
        (_header_alone(tarfile.XHDTYPE, 5 << 20), "expected headers of at most 4194304 bytes, found 5242880"),
        (_header_alone(tarfile.GNUTYPE_LONGNAME, 1 << 32), "expected headers of at most 4194304 bytes"),
        (_header_alone(tarfile.REGTYPE, 1 << 32), "expected at most 2097152 bytes unpacked"),
    ],
)
@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_hostile_members_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: Callable[[tarfile.TarFile], None], message: str, mode: str
) -> None:
    path = _make(tmp_path / "a.tar.gz", fill, mode)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.raises(InputError, match=message):
        unpack(path, max_total_bytes=2 << 20, max_members=40)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_bomb_is_stopped_by_what_it_unpacks_to(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20), 1) * 3)
    with pytest.raises(InputError, match="expected"):
        unpack(path, max_total_bytes=1 << 20)


def test_an_archive_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = _make(tmp_path / "a.tar.gz", lambda archive: None).read_bytes()
    cut = tmp_path / "cut.tar.gz"
    for length in range(2, len(content), 7):
        cut.write_bytes(content[:length])
        with pytest.raises(InputError, match="expected a whole .tar or .tar.gz archive, found"):
            unpack(cut)


def test_flipped_bytes_are_found_by_the_archive_or_change_nothing(tmp_path: Path) -> None:
    content = _make(tmp_path / "a.tar.gz", lambda archive: None).read_bytes()
    whole = unpack(tmp_path / "a.tar.gz")
    expected = {name: path.read_bytes() for name, path in whole.files.items()}
    damaged, detected = tmp_path / "damaged.tar.gz", 0
    for position in range(2, len(content)):
        damaged.unlink(missing_ok=True)
        damaged.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            unpacked = unpack(damaged)
        except InputError:
            detected += 1
        else:
            assert {name: path.read_bytes() for name, path in unpacked.files.items()} == expected
            unpacked.close()
    whole.close()
    assert detected > 0.9 * (len(content) - 2)


class _FullDisk(io.FileIO):
    """Takes some bytes and then no more, as a full disk does; `close` has nothing left to write."""

    def write(self, content: object) -> int:
        if self.tell() > 50_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(content)[:60_000])  # type: ignore[arg-type]


def test_a_full_temporary_folder_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _make(tmp_path / "a.tar.gz", lambda archive: None)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(archives, "open", lambda name, mode, **how: (
        _FullDisk(name, "xb") if mode == "xb" else open(name, mode, **how)), raising=False)
    with pytest.raises(InputError) as told:
        unpack(path)
    assert str(told.value).startswith(f"cannot unpack {path} into {tmp_path / 'temporary'}")
    assert "No space left on device; free space there, or name another temporary folder with TMPDIR." in str(told.value)
    assert "download" not in str(told.value) and list((tmp_path / "temporary").iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="into .*absent: No such file or directory; free space there"):
        unpack(path)


def test_an_archive_without_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, "notes.txt")
    with pytest.raises(
        InputError, match="expected a checkpoint in the archive .* found notes.txt; name another archive"
    ):
        unpack(path)


def test_what_looks_like_an_archive() -> None:
    assert archives.is_archive(b"\x1f\x8b\x08") and archives.is_archive(bytes(257) + b"ustar")
    assert not archives.is_archive(b"") and not archives.is_archive(b"PK\x03\x04")
