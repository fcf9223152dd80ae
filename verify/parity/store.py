"""The work file of parity: every batch is on disk before the next one counts, so that a crash loses nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from effdet_model.errors import InputError
from verify.evaluation.coco import ImageRecord
from verify.parity.image import ImageParity
from verify.parity.port import file_contents_sha256

FORMAT = "effdet-port parity 1"
WORK_FILE = "parity.work.jsonl"


class ParityStore:
    """Images by id. A context manager.

    The file has a header line with the settings, then one JSON line per batch, each flushed and synced; a torn last
    line is what a crash leaves, and is dropped on reading.

    Args:
        path: the work file; None keeps everything in memory only.
        settings: what the results depend on; a file with others cannot be continued.
        resume: continue the file if there is one, instead of starting anew.

    Raises:
        InputError: the file was begun with other settings, is no work file, or cannot be written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], resume: bool = False) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self.images: dict[int, ImageParity] = {}
        self._file: BinaryIO | None = None
        if path is None:
            return
        end = self._read(path) if resume and path.exists() else 0
        try:
            self._file = open(path, "rb+" if end else "wb")
            self._file.truncate(end)
            self._file.seek(end)
            if not end:
                self._write({"format": FORMAT, "settings": self.settings})
        except OSError as error:
            raise _unwritable(path, error) from error

    def check_contents(self, records: Sequence[ImageRecord]) -> None:
        """The files of the images that are done must be as they were.

        Raises:
            InputError: one of them changed.
        """
        for record in records:
            done = self.images.get(record.id)
            if done is not None and done.sha256 != file_contents_sha256(record):
                raise InputError(
                    f"resume: expected {record.path} as it was when {self.path} was written, found other contents; "
                    "put the file back, or leave --resume out to start anew."
                )

    def append(self, images: Sequence[ImageParity]) -> None:
        """Keep some images; when this returns they are on disk."""
        if images:
            self._write({"images": [image.to_plain() for image in images]})
            self.images.update((image.image_id, image) for image in images)

    def remove(self) -> None:
        """Delete the work file: its results are safe elsewhere."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the work file and leave it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> ParityStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, content: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            assert self.path is not None
            raise _unwritable(self.path, error) from error

    def _read(self, path: Path) -> int:
        """Take over what the file has; where its last whole line ends."""
        end = 0
        with open(path, "rb") as file:
            for line in file:
                content = _whole_line(line)
                if content is None:
                    break
                if end == 0:
                    _check_header(path, content, self.settings)
                else:
                    self.images.update((int(i["image_id"]), ImageParity.from_plain(i)) for i in content["images"])
                end += len(line)
        if end == 0 and path.stat().st_size > 1 << 16:
            raise _foreign(path)
        return end


def _whole_line(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _check_header(path: Path, header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    if header.get("format") != FORMAT:
        raise _foreign(path)
    begun = header["settings"]
    different = sorted(key for key in {*begun, *settings} if begun.get(key) != settings.get(key))
    if different:
        raise InputError(
            f"resume: expected the {', '.join(different)} that {path} was begun with, found others. Use the same, or "
            "leave --resume out to start anew."
        )


def _foreign(path: Path) -> InputError:
    return InputError(f"resume: expected {path} to be a work file of parity, found something else; move it.")


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}; free space or name another folder.")
