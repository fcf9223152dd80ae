"""Boxes and labels drawn into an image. The font is the one that comes with Pillow: it has ASCII letters only."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from effdet_model.detector import Detections

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

_GOLDEN_RATIO = 0.618033988749895
_DARK: Color = (0, 0, 0)
_LIGHT: Color = (255, 255, 255)


def category_color(category_id: int) -> Color:
    """An RGB colour for a category: always the same, and far from those of its neighbours."""
    turn, saturation, value = ((0.0, 0.85, 0.95), (0.3, 0.6, 1.0), (0.6, 0.95, 0.75))[category_id % 3]
    hue = (category_id * _GOLDEN_RATIO + turn) % 1.0
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def draw_detections(pixels: npt.NDArray[np.uint8], detections: Detections, longest_side: int = 0) -> Image.Image:
    """The image [height, width, 3] in RGB with every detection's box, name and score.

    Boxes of a category share a colour; where boxes or labels meet, the higher score lies on top.

    Args:
        longest_side: a smaller image is first enlarged by the smallest whole factor that gives its longer side at
            least so many pixels, so that labels hide less of it; 0: its size stays.
    """
    labels = [
        f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores.tolist(), strict=True)
    ]
    colors = [category_color(number) for number in detections.category_ids.tolist()]
    height, width = pixels.shape[:2]
    factor = max(1, -(-longest_side // max(height, width)))
    if factor > 1:
        larger = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
        pixels = np.asarray(larger)
    return draw_boxes(pixels, detections.boxes_xyxy * factor, labels, colors)


def draw_boxes(
    pixels: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[Any], labels: Sequence[str], colors: Iterable[Color]
) -> Image.Image:
    """A copy of an image with boxes and their labels, the first one on top.

    Args:
        pixels: uint8 [height, width, 3] in RGB. boxes_xyxy: [n, 4] in its pixels; drawn as far as they lie within.
        labels, colors: one per box; an empty label is left out.
    """
    picture = Image.fromarray(pixels)
    width, height = picture.size
    pen = ImageDraw.Draw(picture)
    line = max(2, round((width + height) / 500))
    font = _font(max(10, round((width + height) / 75)))
    drawn = [
        (_within(box, width, height), label, color)
        for box, label, color in zip(np.asarray(boxes_xyxy).tolist(), labels, colors, strict=True)
        if np.isfinite(box).all()
    ]
    for rectangle, _, color in reversed(drawn):
        _draw_outline(pen, rectangle, color, line)
    taken: list[Rectangle] = []
    for rectangle, label, color in drawn:
        if label:
            _draw_label(pen, rectangle, label, color, line, font, (width, height), taken)
    return picture


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _within(box: Sequence[float], width: int, height: int) -> Rectangle:
    """First and last pixel of a box on both axes, moved into the image."""
    left, top = (min(max(round(box[axis]), 0), side - 1) for axis, side in ((0, width), (1, height)))
    right, bottom = (min(max(round(box[axis]) - 1, 0), side - 1) for axis, side in ((2, width), (3, height)))
    return left, top, max(left, right), max(top, bottom)


def _draw_outline(pen: ImageDraw.ImageDraw, rectangle: Rectangle, color: Color, line: int) -> None:
    """A coloured frame between thin ones in the contrasting tone, seen on any ground."""
    left, top, right, bottom = rectangle
    if line > 1:
        edge = max(1, line // 3)
        outer = (left - edge, top - edge, right + edge, bottom + edge)
        pen.rectangle(outer, outline=_contrast(color), width=line + 2 * edge)
    pen.rectangle(rectangle, outline=color, width=line)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    rectangle: Rectangle,
    label: str,
    color: Color,
    line: int,
    font: Any,
    size: tuple[int, int],
    taken: list[Rectangle],
) -> None:
    """Text on a ground of the box's colour, beside the box where no earlier label lies, where there is room."""
    margin = line + 1
    x0, y0, x1, y1 = (int(value) for value in font.getbbox(label))
    ground = (x1 - x0 + 2 * margin, y1 - y0 + 2 * margin)
    places = [_moved_in(place, ground, size) for place in _places(rectangle, ground)]
    free = [place for place in places if not any(_overlap(place, other) for other in taken)]
    best = (free or places)[0]
    taken.append(best)
    pen.rectangle(best, fill=color)
    pen.text((best[0] + margin - x0, best[1] + margin - y0), label, fill=_contrast(color), font=font)


def _places(rectangle: Rectangle, ground: tuple[int, int]) -> list[tuple[int, int]]:
    """Upper left corners for a label, the best first: above, below, then inside the box, at either side."""
    left, top, right, bottom = rectangle
    width, height = ground
    rows = (top - height, bottom + 1, top, bottom - height + 1)
    return [(column, row) for row in rows for column in (left, right - width + 1)]


def _moved_in(place: tuple[int, int], ground: tuple[int, int], size: tuple[int, int]) -> Rectangle:
    left = max(0, min(place[0], size[0] - ground[0]))
    top = max(0, min(place[1], size[1] - ground[1]))
    return left, top, left + ground[0] - 1, top + ground[1] - 1


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _contrast(color: Color) -> Color:
    """Black or white, whichever reads better on a colour (its relative luminance, ITU-R BT.709)."""
    red, green, blue = ((part / 255) ** 2.2 for part in color)
    return _DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else _LIGHT
