"""Unpack a tar archive of the official layout without trusting anything in it.

Only regular files with the base names of a checkpoint are taken, streamed under names of our own into a
temporary folder. Links, devices, absolute names, `..`, two files of one name and anything beyond the
limits are refused. `.meta` (a graph) is never unpacked: nothing here needs it.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from effdet_model.errors import InputError
from porting.files import write_all

MAX_MEMBERS = 10_000
MAX_TOTAL_BYTES = 8 << 30
MAX_READ_BYTES = 4 << 20
_CHUNK = 1 << 20
_STEP_BACK = 1024
_WANTED = re.compile(
    r"checkpoint|(?P<prefix>[^/]+)\.(?:index|data-\d{5}-of-\d{5})|[^/]+\.(?:h5|hdf5|tflite)|saved_model\.pb", re.ASCII
)
_LEFT_IN = re.compile(r"\._.*")  # what macOS adds beside each file


@dataclass
class Unpacked:
    """`files`: base name in the archive -> unpacked file; `names`: these files' names with folders, as archived.

    `close()` removes the folder and all in it.
    """

    folder: tempfile.TemporaryDirectory[str]
    files: dict[str, Path] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.folder.cleanup()


def is_archive(head: bytes) -> bool:
    """Whether the first 512 bytes are those of a gzip or a tar file."""
    return head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar"


def unpack(path: Path, max_total_bytes: int = MAX_TOTAL_BYTES, max_members: int = MAX_MEMBERS) -> Unpacked:
    """Unpack the checkpoint files of the .tar, .tar.gz or .tgz at `path` into a temporary folder.

    Raises:
        InputError: a member that must not be there, a limit passed, a damaged archive, no checkpoint in it.
    """
    try:
        result = Unpacked(tempfile.TemporaryDirectory(prefix="effdet-port-"))
    except OSError as error:
        raise _no_room(path, tempfile.tempdir or "the temporary folder", error) from error
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            plain = gzip.GzipFile(fileobj=file, mode="rb") if packed else file
            stream = _Bounded(plain, path, max_total_bytes)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                _unpack_members(archive, path, result, max_total_bytes, max_members)
                _check_end(stream, archive.offset)
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError) as error:
        result.close()
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: expected a whole .tar or .tar.gz archive, found: {error}; copy or download it again."
        ) from error
    except BaseException:
        result.close()
        raise
    if not set(result.files) - {"checkpoint", "saved_model.pb"}:
        result.close()
        raise InputError(
            f"{path}: expected a checkpoint in the archive (NAME.index and NAME.data-00000-of-00001, or "
            f"NAME.h5), found {', '.join(result.skipped[:5]) or 'no files'}; name another archive."
        )
    return result


def _unpack_members(
    archive: tarfile.TarFile, path: Path, result: Unpacked, max_total_bytes: int, max_members: int
) -> None:
    total, folder = 0, Path(result.folder.name)
    for count, member in enumerate(archive, 1):
        if count > max_members:
            raise _refuse(path, f"at most {max_members} members", "more")
        _check_member(member, path)
        total += member.size
        if member.size < 0 or total > max_total_bytes:
            raise _refuse(path, f"at most {max_total_bytes} bytes unpacked", f"{total}")
        base = PurePosixPath(member.name).name
        if member.isdir():
            continue
        if not _WANTED.fullmatch(base) or _LEFT_IN.fullmatch(base):
            result.skipped.append(base[:80])
            continue
        if base in result.files:
            raise _refuse(path, "each file once", f"two of the name {base!r}")
        target = folder / _own_name(base, result.files)
        _copy(archive, member, target, path)
        result.files[base] = target
        result.names.append(member.name)


def _check_end(stream: _Bounded, offset: int) -> None:
    """Read the rest: zeros alone (tarfile stops without a word at a damaged header), and gzip's checksum."""
    stream.seek(offset)
    zeros = 0
    while content := stream.read(_CHUNK):
        if content.count(0) != len(content):
            raise tarfile.ReadError(f"a damaged member at byte {offset}")
        zeros += len(content)
    if zeros < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no end of the archive at byte {offset}")


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    name = PurePosixPath(member.name)
    shown = repr(member.name[:200])
    if member.issym() or member.islnk():
        raise _refuse(path, "regular files alone", f"the link {shown} -> {member.linkname[:200]!r}")
    if not (member.isreg() or member.isdir()):
        raise _refuse(path, "regular files alone", f"the device, pipe or special file {shown}")
    if member.sparse is not None:
        raise _refuse(path, "regular files alone", f"the sparse file {shown}")
    if name.is_absolute() or member.name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", member.name):
        raise _refuse(path, "names relative to the archive", f"the absolute name {shown}")
    if ".." in re.split(r"[/\\]", member.name):
        raise _refuse(path, "names that stay in the archive", f"{shown}")


def _own_name(base: str, files: dict[str, Path]) -> str:
    """`checkpoint`, `0.index`, `0.data-00000-of-00001`, `1.h5`: numbered by the prefix in the archive."""
    if base == "checkpoint":
        return base
    stem, _, suffix = base.rpartition(".")
    for other, own in files.items():
        if other != "checkpoint" and other.rpartition(".")[0] == stem:
            return f"{own.name.partition('.')[0]}.{suffix}"
    return f"{len(files)}.{suffix}"


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, path: Path) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise _refuse(path, "regular files alone", f"{member.name!r}")
    left = member.size
    with _created(target, path) as out:
        while left:
            chunk = source.read(min(_CHUNK, left))
            if not chunk:
                raise _refuse(path, f"{member.size} bytes of {member.name!r}", f"{member.size - left}")
            try:
                write_all(out, chunk)
            except OSError as error:
                raise _no_room(path, str(target.parent), error) from error
            left -= len(chunk)


def _created(target: Path, path: Path) -> io.FileIO:
    try:
        return open(target, "xb", buffering=0)
    except OSError as error:
        raise _no_room(path, str(target.parent), error) from error


def _no_room(path: Path, folder: str, error: OSError) -> InputError:
    """Trouble with the temporary folder is none of the archive."""
    return InputError(
        f"cannot unpack {path} into {folder}: {error.strerror or error}; free space there, or name another temporary "
        "folder with TMPDIR."
    )


def _refuse(path: Path, expected: str, found: str) -> InputError:
    return InputError(f"{path}: expected {expected}, found {found}; use an archive of the official layout.")


class _Bounded(io.RawIOBase):
    """The unpacked stream, read forward once. Its length is limited, and so is any one read (tarfile reads a long
    header in one piece). A step back, which tarfile makes between members, is served from memory.
    """

    def __init__(self, file: gzip.GzipFile | io.BufferedReader, path: Path, limit: int) -> None:
        super().__init__()
        self._file, self._path = file, path
        self._limit = limit + (64 << 20)  # headers and padding come on top
        self._position, self._behind, self._ahead = 0, b"", b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        step = offset - self._position
        if whence != 0 or step < -len(self._behind):
            raise ValueError("members that overlap")
        if step < 0:
            self._ahead = self._behind[step:] + self._ahead
            self._behind = self._behind[:step]
            self._position = offset
        while self._position < offset and self.read(min(_CHUNK, offset - self._position)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_READ_BYTES:
            raise _refuse(self._path, f"headers of at most {MAX_READ_BYTES} bytes", f"{size}")
        content, self._ahead = self._ahead[:size], self._ahead[size:]
        if len(content) < size:
            content += self._file.read(size - len(content))
        self._position += len(content)
        if self._position > self._limit:
            raise _refuse(self._path, f"at most {self._limit} bytes", "more")
        self._behind = (self._behind + content[-_STEP_BACK:])[-_STEP_BACK:]
        return content
