"""An image with its truth and what was found, side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from effdet_model.decoding import decode_image
from verify.evaluation.findings.analysis import ImageCounts
from verify.report.drawing import Color, category_color, draw_boxes

_LONGEST_SIDE, _NARROWEST, _TITLE, _GAP = 480, 300, 20, 8
_HIT, _FALSE, _MISSED, _CROWD = (46, 160, 67), (207, 34, 46), (224, 134, 20), (120, 125, 135)
_PAPER, _INK = (255, 255, 255), (31, 35, 40)
_QUALITY = 88

Rows = npt.NDArray[np.float32]
"""float32 [n, 6]: x, y, width, height in original pixels, score, category id; best score first."""


def truth_and_detections(
    path: Path, boxes: Sequence[Mapping[str, Any]], rows: Rows, counts: ImageCounts, categories: Mapping[int, str]
) -> bytes:
    """A JPEG: left the truth, right what was found at the operating point.

    Green: found with its class. Orange: missed. Red: no object, or one of another class. Grey: a crowd.
    """
    missed = set(counts.missed_boxes)
    of_truth = [_CROWD if box["iscrowd"] else _MISSED if i in missed else _HIT for i, box in enumerate(boxes)]
    truth = _Panel(
        f"truth: {counts.truths} boxes, {counts.missed} missed",
        [box["bbox"] for box in boxes],
        [_name(categories, box["category_id"]) for box in boxes],
        of_truth,
    )
    shown = sorted((*counts.false_rows, *counts.hit_rows))
    false = set(counts.false_rows)
    found = _Panel(
        f"found: {counts.hits} right, {counts.false} wrong",
        rows[shown, :4].tolist(),
        [f"{_name(categories, rows[row, 5])} {rows[row, 4]:.2f}" for row in shown],
        [_FALSE if row in false else _HIT for row in shown],
    )
    return _jpeg(path, [truth, found])


def detections_only(path: Path, rows: Rows, score: float, categories: Mapping[int, str]) -> bytes:
    """A JPEG of what was found from a score on; every class has a colour of its own."""
    strong = [row for row in rows if row[4] >= score]
    panel = _Panel(
        f"{len(strong)} detections from score {score:.2f} on",
        [row[:4].tolist() for row in strong],
        [f"{_name(categories, row[5])} {row[4]:.2f}" for row in strong],
        [category_color(int(row[5])) for row in strong],
    )
    return _jpeg(path, [panel])


class _Panel:
    """A title and what is drawn below it: boxes (x, y, width, height), labels, colours."""

    def __init__(self, title: str, boxes: list[list[float]], labels: list[str], colors: list[Color]) -> None:
        self.title, self.labels, self.colors = title, labels, colors
        self.boxes = np.array(boxes, np.float64).reshape(-1, 4)

    def drawn(self, picture: Image.Image, factor: float) -> Image.Image:
        boxes = self.boxes * factor
        boxes[:, 2:] += boxes[:, :2]
        drawn = draw_boxes(np.asarray(picture), boxes, self.labels, self.colors)
        panel = Image.new("RGB", (max(picture.width, _NARROWEST), picture.height + _TITLE), _PAPER)
        panel.paste(drawn, (0, _TITLE))
        ImageDraw.Draw(panel).text((4, 4), self.title, fill=_INK)
        return panel


def _jpeg(path: Path, panels: Sequence[_Panel]) -> bytes:
    picture = Image.fromarray(decode_image(path))
    factor = _LONGEST_SIDE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))
    drawn = [panel.drawn(picture, factor) for panel in panels]
    width, height = drawn[0].size
    whole = Image.new("RGB", (len(drawn) * (width + _GAP) - _GAP, height), _PAPER)
    for number, panel in enumerate(drawn):
        whole.paste(panel, (number * (width + _GAP), 0))
    encoded = io.BytesIO()
    whole.save(encoded, "JPEG", quality=_QUALITY, subsampling=0)
    return encoded.getvalue()


def _name(categories: Mapping[int, str], category: Any) -> str:
    return categories.get(int(category), str(int(category)))
