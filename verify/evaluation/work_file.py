"""Work files: what a run has done so far, on disk before it goes on, so that a crash at any moment loses nothing.

A work file is JSON lines: a header with its format and the settings that the results depend on, then one line per
batch, each flushed and synced. A torn last line is what a crash leaves, and is dropped on reading.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, TypeVar

from effdet_model.errors import InputError

_SHOWN = 4
_LONGEST_HEADER = 1 << 16
Self = TypeVar("Self", bound="WorkFile")


class WorkFile(ABC):
    """A work file that is being written; a context manager.

    Args:
        path: None: nothing is written.
        settings: what the results depend on; a file with others cannot be continued.
        resume: continue the file if there is one, instead of starting anew.

    Raises:
        InputError: the file was begun with other settings, is no work file of this format, or cannot be written.
    """

    format: ClassVar[str]
    """What the header says; ends in its version."""
    command: ClassVar[str]
    """Whose work files these are."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any], resume: bool = False) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self._file: BinaryIO | None = None
        if path is None:
            return
        end = self._resume(path) if resume and path.exists() else 0
        try:
            self._file = open(path, "rb+" if end else "wb")
            self._file.truncate(end)
            self._file.seek(end)
        except OSError as error:
            raise _unwritable(path, error) from error
        if not end:
            self.write({"format": self.format, "settings": self.settings})

    @abstractmethod
    def take(self, content: Mapping[str, Any]) -> None:
        """Take over one batch that was written before; KeyError, TypeError and ValueError: it is none."""

    def write(self, content: Mapping[str, Any]) -> None:
        """Add a line; when this returns it is on disk."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            assert self.path is not None
            raise _unwritable(self.path, error) from error

    def remove(self) -> None:
        """Delete the file: its results are safe elsewhere."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and leave it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, path: Path) -> int:
        """Take over all batches of a file with these settings; where its last whole line ends, 0 without a header.

        Raises:
            InputError: it is no work file of this format, or was begun with other settings.
        """
        end = 0
        with open(path, "rb") as file:
            for line in file:
                content = _whole_line(line)
                if content is None:
                    break
                if end == 0:
                    self._check_header(path, content)
                else:
                    self._take(path, content)
                end += len(line)
        if end == 0 and path.stat().st_size > _LONGEST_HEADER:
            raise self._foreign(path, "something else")
        return end

    def _resume(self, path: Path) -> int:
        try:
            return self.read(path)
        except OSError as error:
            raise InputError(
                f"resume: expected a readable {path}, found: {error.strerror or error}; check its rights."
            ) from error

    def _take(self, path: Path, content: Mapping[str, Any]) -> None:
        try:
            self.take(content)
        except (KeyError, TypeError, ValueError) as error:
            raise self._foreign(path, "a line with other content") from error

    def _check_header(self, path: Path, header: Mapping[str, Any]) -> None:
        found = header.get("format")
        if found != self.format:
            older = isinstance(found, str) and found.startswith(self.format.rstrip("0123456789"))
            raise self._foreign(path, str(found)[:40] if older else "something else")
        begun, wanted = _flat(header.get("settings")), _flat(self.settings)
        different = [key for key in {**wanted, **begun} if begun.get(key) != wanted.get(key)]
        if different:
            shown = "; ".join(
                f"{key} was {_short(begun.get(key))}, now {_short(wanted.get(key))}" for key in different[:_SHOWN]
            )
            more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
            raise InputError(
                f"resume: expected the settings that {path} was begun with, found others: {shown}{more}. Use the same "
                "ones, or leave --resume out to start anew."
            )

    def _foreign(self, path: Path, found: str) -> InputError:
        return InputError(
            f"resume: expected {path} to be a work file of {self.command} ({self.format}), found {found}; move it, or "
            "leave --resume out to start anew."
        )


def _whole_line(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, so that a message names the one that differs."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {
        key: leaf
        for part, inner in value.items()
        for key, leaf in _flat(inner, f"{name}.{part}" if name else str(part)).items()
    }


def _short(value: Any) -> str:
    """JSON text of at most about 70 characters; of a long one both ends, where paths differ."""
    text = json.dumps(value)
    return text if len(text) <= 70 else f"{text[:20]}...{text[-45:]}"


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path}: {error.strerror or error}; free space or name another output.")
