"""Both sides' detections on one image, side by side: TensorFlow left, PyTorch right."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path

from PIL import Image, ImageDraw

from effdet_model.decoding import decode_image
from verify.parity_matching import ImageAgreement, Rows

SHOWN_SCORE = 0.3
"""Detections with a partner are drawn from this score on; those without one, always (the strongest of them)."""
_MOST_LONE = 12
_HEIGHT = 420
_PARTNER, _LONE, _PAPER, _INK = (46, 160, 67), (207, 34, 46), (255, 255, 255), (31, 35, 40)


def side_by_side(
    path: Path, reference: Rows, port: Rows, agreement: ImageAgreement, categories: Mapping[int, str]
) -> bytes:
    """A PNG: green boxes have a partner on the other side, red ones have none.

    Args:
        reference, port: x, y, width, height in original pixels, score, category id.
    """
    picture = Image.fromarray(decode_image(path))
    factor = _HEIGHT / max(picture.size)
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
    width, height = (max(1, round(side * factor)) for side in picture.size)
    panel = Image.new("RGB", (max(width, 200), height + 18), _PAPER)
    panel.paste(picture.resize((width, height)), (0, 18))
    pen = ImageDraw.Draw(panel)
    strongest = set(sorted(lone)[:_MOST_LONE])
    for position, row in reversed(list(enumerate(rows.tolist()))):
        if position not in strongest and (row[4] < SHOWN_SCORE or position in lone):
            continue
        color = _LONE if position in strongest else _PARTNER
        x, y, wide, high = (value * factor for value in row[:4])
        corners = (x, y + 18, max(x, x + wide), max(y, y + high) + 18)
        pen.rectangle(corners, outline=color, width=2)
        label = f"{categories.get(int(row[5]), int(row[5]))} {row[4]:.4f}"
        place = (max(0, x + 3), max(18, y + 20))
        pen.rectangle(pen.textbbox(place, label), fill=_PAPER)
        pen.text(place, label, fill=color)
    pen.rectangle((0, 0, panel.width, 17), fill=_PAPER)
    pen.text((2, 3), f"{title}: {len(rows)} detections, {len(lone)} without a partner", fill=_INK)
    return panel
