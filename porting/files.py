"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from effdet_model.errors import InputError

_NO_FOLDER_SYNC = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What systems and file systems answer that cannot open or sync a folder; the files in it are written all the same."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; at success it is synced and renamed to `path`.

    On any exception, Ctrl-C included, the temporary file is removed and `path` is as it was.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(
            f"cannot write {target}: expected a file name, found a folder; add a file name to it."
        )
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        # The system applies the process's umask; asking for its value would mean to change it for a moment.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(os.stat(temporary).st_mode)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: expected a writable folder, found: {error.strerror}; "
            "create the folder or name another output."
        ) from error
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, mode)  # safetensors puts a file of its own there, which nobody else may read
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror or error}; free space or name another output."
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def make_folder(folder: str | os.PathLike[str], what: str = "folder", remedy: str = "name another") -> None:
    """Make a folder and its parents, where they are missing.

    Args:
        what, remedy: of the message: what the folder is for, and what to do.

    Raises:
        InputError: something else has that name, or it is not allowed.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{what} {folder}: expected a folder that can be made, found: {error.strerror}; {remedy}."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a crash, where the system can do that; Windows cannot."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def write_all(file: io.RawIOBase, content: bytes) -> None:
    """Write all bytes into an unbuffered file; an `OSError` comes from here, none is left for `close`."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that one process at a time can have, by a file of its own; the system frees it at a crash.

    Raises:
        InputError: the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: expected a writable folder, found: {error.strerror}; name another cache with "
            "EFFDET_PORT_CACHE."
        ) from error
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)  # which frees the lock


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return
            except OSError:
                time.sleep(0.05)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
