"""detections.json, written while the images come: one line per image or frame, whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from effdet_model.detector import Detections
from porting.files import atomic_write


class EntryList:
    """The list within the file; `close_with` what only the end knows is written after it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._is_first = True
        self.closing: dict[str, Any] = {}
        """Written behind the list."""

    def add(self, entry: Mapping[str, Any], found: Detections) -> None:
        """Append an image or a frame: what is known of it, then its detections."""
        line = json.dumps({**entry, "detections": detections_json(found)}, allow_nan=False)
        self._file.write(("\n " if self._is_first else ",\n ") + line)
        self._is_first = False


@contextlib.contextmanager
def detections_file(path: Path, header: Mapping[str, Any], list_name: str) -> Iterator[EntryList]:
    """A JSON object with the header's entries, then the list of that name, then `EntryList.closing`.

    Raises:
        InputError: the folder cannot be written to.
    """
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("{\n")
        for key, value in header.items():
            file.write(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)},\n")
        file.write(f"{json.dumps(list_name)}: [")
        entries = EntryList(file)
        yield entries
        file.write("\n]")
        for key, value in entries.closing.items():
            file.write(f",\n{json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
        file.write("\n}\n")


def detections_json(found: Detections) -> list[dict[str, Any]]:
    """Plain data, best score first; numbers in the fewest digits that give the same float32."""
    rows = zip(found.boxes_xyxy, found.scores, found.category_ids.tolist(), found.names, strict=True)
    return [
        {
            "bbox_xyxy": [_short(value) for value in box],
            "bbox_xywh": [_short(value) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": _short(score),
            "category_id": category_id,
            "category": name,
        }
        for box, score, category_id, name in rows
    ]


def _short(value: Any) -> float:
    return float(str(value))
