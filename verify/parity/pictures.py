"""Both sides' detections on one image, side by side: TensorFlow left, PyTorch right."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from effdet_model.decoding import decode_image
from verify.parity.matching import ImageAgreement, Rows
from verify.report.drawing import draw_boxes

SHOWN_SCORE = 0.3
"""Detections with a partner are drawn from this score on; those without one, always (the strongest of them)."""
_MOST_LONE = 12
_LONGEST_SIDE, _NARROWEST, _TITLE = 420, 320, 18
_PARTNER, _LONE, _PAPER, _INK = (46, 160, 67), (207, 34, 46), (255, 255, 255), (31, 35, 40)


def side_by_side(
    path: Path, reference: Rows, port: Rows, agreement: ImageAgreement, categories: Mapping[int, str]
) -> bytes:
    """A PNG: green boxes have a partner on the other side, red ones have none.

    Args:
        reference, port: x, y, width, height in original pixels, score, category id.
    """
    picture = Image.fromarray(decode_image(path))
    factor = _LONGEST_SIDE / max(picture.size)
    panels = [
        _panel(picture, factor, title, rows, lone, categories)
        for title, rows, lone in (
            ("TensorFlow", reference, agreement.unmatched_tensorflow),
            ("PyTorch", port, agreement.unmatched_pytorch),
        )
    ]
    width, height = panels[0].size
    both = Image.new("RGB", (2 * width + 8, height), _PAPER)
    for number, panel in enumerate(panels):
        both.paste(panel, (number * (width + 8), 0))
    encoded = io.BytesIO()
    both.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def _panel(
    picture: Image.Image, factor: float, title: str, rows: Rows, lone: Collection[int], categories: Mapping[int, str]
) -> Image.Image:
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    strongest = set(sorted(lone)[:_MOST_LONE])
    shown = [i for i, row in enumerate(rows) if i in strongest or (i not in lone and row[4] >= SHOWN_SCORE)]
    shown.sort(key=lambda i: i not in strongest)
    boxes = rows[shown, :4].astype(np.float64) * factor
    boxes[:, 2:] += boxes[:, :2]
    labels = [f"{categories.get(int(rows[i, 5]), int(rows[i, 5]))} {rows[i, 4]:.4f}" for i in shown]
    colors = [_LONE if i in strongest else _PARTNER for i in shown]
    drawn = draw_boxes(np.asarray(picture.resize(size)), boxes, labels, colors)
    panel = Image.new("RGB", (max(size[0], _NARROWEST), size[1] + _TITLE), _PAPER)
    panel.paste(drawn, (0, _TITLE))
    text = f"{title}: {len(rows)} detections, {len(lone)} without a partner"
    ImageDraw.Draw(panel).text((2, 3), text, fill=_INK)
    return panel
