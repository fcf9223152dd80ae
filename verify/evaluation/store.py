"""Detections as they come: a work file that survives a crash at any moment, and the COCO files made of it."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from effdet_model.errors import InputError
from porting.files import atomic_write

FORMAT = "effdet-port detections 2"
_SHOWN = 4
_NO_ROWS = np.zeros((0, 6), np.float32)


@dataclass(frozen=True)
class ImageResult:
    """What became of one image.

    Attributes:
        rows: float32 [n, 6]: x, y, width, height in original pixels, score, COCO category id; best score first.
        size: (height, width) of the decoded image; None where it could not be read.
        bad: why it was skipped; None where it was not.
        sha256: of the image file, as it was read; None where it could not be, or nobody asks.
    """

    image_id: int
    rows: npt.NDArray[np.float32]
    size: tuple[int, int] | None = None
    bad: str | None = None
    sha256: str | None = None

    @classmethod
    def skipped(cls, image_id: int, reason: str, sha256: str | None = None) -> ImageResult:
        """An image that could not be used."""
        return cls(image_id, _NO_ROWS, None, reason, sha256)

    def coco_results(self) -> list[dict[str, Any]]:
        """Its detections in COCO's results format; only scores above 0."""
        return [
            {"image_id": self.image_id, "category_id": int(row[5]), "bbox": row[:4], "score": row[4]}
            for row in self.rows.astype(np.float64).tolist()
            if row[4] > 0
        ]

    def to_plain(self) -> list[Any]:
        """Plain data; float32 values survive JSON exactly."""
        return [self.image_id, self.size, self.bad, self.sha256, self.rows.astype(np.float64).tolist()]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> ImageResult:
        """What `to_plain` wrote."""
        image_id, size, bad, sha256, rows = plain
        array = np.array(rows, np.float32).reshape(-1, 6)
        return cls(int(image_id), array, tuple(size) if size else None, bad, sha256)


def detections_to_rows(detections: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[n, 6] of x, y, w, h, score, category from [n, 6] of y0, x0, y1, x1, score, category, all in float32.

    The official code subtracts in float32 as well (google/automl tf2/postprocess.py transform_detections).
    """
    y0, x0, y1, x1, score, category = detections.T
    return np.column_stack((x0, y0, x1 - x0, y1 - y0, score, category)).astype(np.float32)


class DetectionsStore:
    """Results by image id, each batch on disk before the next one starts. A context manager.

    The file has a header line with the settings, then one JSON line per batch. Every line is flushed and synced; a
    torn last line is what a crash leaves, and is dropped on reading.

    Args:
        path: the work file; None keeps everything in memory only.
        settings: what the detections depend on; a file with others cannot be continued.
        resume: continue the file if there is one, instead of starting anew.

    Raises:
        InputError: the file was begun with other settings, is no work file, or cannot be written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], resume: bool = False) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self.results: dict[int, ImageResult] = {}
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

    def append(self, results: Sequence[ImageResult]) -> None:
        """Keep a batch; when this returns it is on disk."""
        self._write({"images": [result.to_plain() for result in results]})
        self.results.update((result.image_id, result) for result in results)

    def adopt(self, results: Iterable[ImageResult]) -> None:
        """Take over results that lie in another file."""
        for result in results:
            self.results.setdefault(result.image_id, result)

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

    def __enter__(self) -> DetectionsStore:
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
        results, end = read_work_file(path, self.settings)
        self.adopt(results)
        return end


def read_work_file(path: Path, settings: Mapping[str, Any]) -> tuple[list[ImageResult], int]:
    """(results, position behind the last whole line) of a work file; position 0 where not even the header is whole.

    Raises:
        InputError: it is no work file, or was begun with other settings.
    """
    results: list[ImageResult] = []
    end = 0
    with open(path, "rb") as file:
        for line in file:
            content = _whole_line(line)
            if content is None:
                break
            if end == 0:
                _check_header(path, content, json.loads(json.dumps(settings)))
            else:
                results += _results(path, content)
            end += len(line)
    if end == 0 and path.stat().st_size > 1 << 16:
        raise InputError(f"resume: expected {path} to be a work file of evaluate, found something else; move it.")
    return results, end


def _results(path: Path, content: Mapping[str, Any]) -> list[ImageResult]:
    try:
        return [ImageResult.from_plain(plain) for plain in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"resume: expected {path} to be a work file of evaluate, found a line with other content; move it, or "
            "leave --resume out to start anew."
        ) from error


def write_results(path: Path, results: Iterable[ImageResult], server_name: str | None = None) -> None:
    """Write COCO's results format, whole or not at all: one list, in the order given.

    Args:
        path: a .json, or a .zip with the .json in it.
        server_name: for test splits, the name without suffix that COCO's evaluation server wants; the file is then
            rounded as the official code does for it (boxes to 2 decimals, scores to 3; google/automl
            coco_metric.py). Otherwise it has full precision.
    """
    detections = [detection for result in results for detection in result.coco_results()]
    if server_name:
        detections = [_rounded(detection) for detection in detections]
    with atomic_write(path) as temporary:
        if path.suffix == ".zip":
            entry = zipfile.ZipInfo(f"{server_name or path.stem}.json")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr(entry, json.dumps(detections))
        else:
            temporary.write_text(json.dumps(detections), encoding="utf-8")


def _rounded(detection: Mapping[str, Any]) -> dict[str, Any]:
    box = [float(np.around(value, 2)) for value in detection["bbox"]]
    return {**detection, "bbox": box, "score": float(np.around(detection["score"], 3))}


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
        found = header.get("format")
        other = found if isinstance(found, str) and found.startswith(FORMAT[:-1]) else "something else"
        raise InputError(
            f"resume: expected {path} to be a work file of evaluate ({FORMAT}), found {other[:40]}; move it, or leave "
            "--resume out to start anew."
        )
    begun, wanted = _flat(header.get("settings")), _flat(settings)
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
