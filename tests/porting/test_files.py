"""Files that appear whole or not at all, on every system."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effdet_model.errors import InputError
from porting import files
from porting.files import atomic_write, locked, sync_folder


def test_written_whole_with_the_rights_of_the_umask(tmp_path: Path) -> None:
    """In a process of its own: a umask belongs to all threads of one."""
    code = (
        "import os, sys; from pathlib import Path; from porting.files import atomic_write\n"
        "os.umask(int(sys.argv[2], 8))\n"
        "def refuse(mask): raise AssertionError('the umask was touched')\n"
        "os.umask = refuse\n"
        "with atomic_write(sys.argv[1]) as temporary: temporary.write_text('whole')\n"
    )
    for mask, expected in (("022", 0o644), ("077", 0o600), ("002", 0o664)):
        target = tmp_path / f"file{mask}"
        subprocess.run([sys.executable, "-c", code, str(target), mask], check=True)
        assert target.read_text() == "whole" and target.stat().st_mode & 0o777 == expected
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="expected a writable folder, found: No such file or directory"), atomic_write(
        tmp_path / "absent" / "file"
    ):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EINVAL, errno.EPERM])
def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Windows refuses to open a folder, some file systems to sync it; the file was written all the same."""
    real = os.open

    def refuse_folders(path: str, flags: int, *rest: int) -> int:
        if Path(path).is_dir():
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse_folders)
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"


def test_a_failing_disk_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fail(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="Input/output error"), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("whole")


def test_windows_opens_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "name", "nt")
    monkeypatch.setattr(files.os, "open", lambda *_: pytest.fail("a folder was opened"))
    sync_folder(tmp_path)


def _count(folder: Path, rounds: int) -> None:
    for _ in range(rounds):
        with locked(folder / "lock"):
            number = int((folder / "number").read_text())
            time.sleep(0.001)
            (folder / "number").write_text(str(number + 1))


def test_one_process_at_a_time_has_the_lock(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(tmp_path, 50)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert (tmp_path / "number").read_text() == "100"
