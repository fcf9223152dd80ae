"""Detections as they come: a work file that survives a crash at any moment, and the COCO files made of it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from porting.files import atomic_write
from verify.evaluation.work_file import WorkFile

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


class DetectionsStore(WorkFile):
    """Results by image id, each batch on disk before the next one starts; see `WorkFile`."""

    format = "effdet-port detections 2"
    command = "evaluate"

    def __init__(self, path: Path | None, settings: Mapping[str, Any], resume: bool = False) -> None:
        self.results: dict[int, ImageResult] = {}
        super().__init__(path, settings, resume)

    def append(self, results: Sequence[ImageResult]) -> None:
        """Keep a batch; when this returns it is on disk."""
        self.write({"images": [result.to_plain() for result in results]})
        self.results.update((result.image_id, result) for result in results)

    def adopt(self, results: Iterable[ImageResult]) -> None:
        """Take over results that lie in another file."""
        for result in results:
            self.results.setdefault(result.image_id, result)

    def take(self, content: Mapping[str, Any]) -> None:
        """Take over one batch of the file."""
        self.adopt([ImageResult.from_plain(plain) for plain in content["images"]])


def read_work_file(path: Path, settings: Mapping[str, Any]) -> list[ImageResult]:
    """The results in a work file that another process wrote.

    Raises:
        InputError: it is no work file, or was begun with other settings.
    """
    found = DetectionsStore(None, settings)
    found.read(path)
    return list(found.results.values())


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
