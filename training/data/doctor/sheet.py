"""Pictures side by side in one, each with its boxes and a line above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from verify.report.drawing import category_color, draw_boxes

TILE = 320
"""Pixels of a picture's longer side."""
_LINE, _GAP = 16, 4


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    Attributes:
        pixels: uint8 [h, w, 3]. boxes_yxyx: [n, 4] in its pixels. classes: [n]. labels: of each box.
        title: a line above it; letters beyond ASCII are shown as question marks.
    """

    pixels: npt.NDArray[np.uint8]
    boxes_yxyx: npt.NDArray[Any]
    classes: npt.NDArray[np.int64]
    labels: Sequence[str]
    title: str = ""


def contact_sheet(tiles: Sequence[Tile], columns: int | None = None) -> Image.Image:
    """All tiles in rows.

    Args:
        columns: how many in a row; None: as many as rows, about.
    """
    columns = columns or max(1, math.ceil(math.sqrt(len(tiles))))
    rows = max(1, math.ceil(len(tiles) / columns))
    cell = TILE + _GAP
    sheet = Image.new("RGB", (columns * cell + _GAP, rows * (cell + _LINE) + _GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left, top = _GAP + number % columns * cell, _GAP + number // columns * (cell + _LINE)
        title = tile.title.encode("ascii", "replace").decode()
        pen.text((left, top), title[: TILE // 6], fill=(0, 0, 0))
        sheet.paste(_drawn(tile), (left, top + _LINE))
    return sheet


def _drawn(tile: Tile) -> Image.Image:
    height, width = tile.pixels.shape[:2]
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(Image.fromarray(np.ascontiguousarray(tile.pixels)).resize(size, Image.Resampling.BILINEAR))
    boxes = np.asarray(tile.boxes_yxyx, np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]] * scale
    labels = [label.encode("ascii", "replace").decode()[:30] for label in tile.labels]
    colors = [category_color(int(class_id)) for class_id in tile.classes]
    return draw_boxes(pixels, boxes, labels, colors)
