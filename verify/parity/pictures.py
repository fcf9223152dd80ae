"""Both sides' detections on one image, and the truth: TensorFlow left, PyTorch in the middle, annotations right."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from effdet_model.decoding import decode_image
from verify.parity.matching import ImageAgreement, Rows
from verify.report.drawing import draw_boxes

SHOWN_SCORE = 0.3
"""Detections with a partner are drawn from this score on; where there is none, the best ones."""
_BEST = 5
_MOST_LONE = 12
_LONGEST_SIDE, _NARROWEST, _TITLE, _GAP = 420, 320, 18, 8
_PARTNER, _LONE, _TRUTH = (46, 160, 67), (207, 34, 46), (9, 105, 218)
_PAPER, _INK = (255, 255, 255), (31, 35, 40)


def side_by_side(
    path: Path, reference: Rows, port: Rows, agreement: ImageAgreement, categories: Mapping[int, str],
    truth: Sequence[Mapping[str, Any]] | None = None,
) -> bytes:
    """A PNG: green boxes have a partner on the other side, red ones have none, blue ones are the truth.

    Args:
        reference, port: x, y, width, height in original pixels, score, category id.
        truth: COCO annotations of the image; None where there are none.
    """
    picture = Image.fromarray(decode_image(path))
    factor = _LONGEST_SIDE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    scaled = np.asarray(picture.resize(size))
    panels = [
        _detections(scaled, factor, title, rows, lone, categories)
        for title, rows, lone in (
            ("TensorFlow", reference, agreement.unmatched_tensorflow),
            ("PyTorch", port, agreement.unmatched_pytorch),
        )
    ]
    if truth is not None:
        boxes = [annotation["bbox"] for annotation in truth]
        names = [str(categories.get(int(a["category_id"]), a["category_id"])) for a in truth]
        panels.append(
            _panel(scaled, factor, f"Truth: {len(truth)} boxes", boxes, names, [_TRUTH] * len(names))
        )
    width, height = panels[0].size
    together = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height), _PAPER)
    for number, panel in enumerate(panels):
        together.paste(panel, (number * (width + _GAP), 0))
    encoded = io.BytesIO()
    together.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def _detections(
    scaled: np.ndarray, factor: float, title: str, rows: Rows, lone: Collection[int], categories: Mapping[int, str]
) -> Image.Image:
    strongest = set(sorted(lone)[:_MOST_LONE])
    paired = [i for i in range(len(rows)) if i not in lone]
    shown = [i for i in paired if rows[i, 4] >= SHOWN_SCORE]
    best = "" if shown or not paired else f"; the best {len(paired[:_BEST])} shown"
    shown = [*sorted(strongest), *(shown or paired[:_BEST])]
    labels = [f"{categories.get(int(rows[i, 5]), int(rows[i, 5]))} {rows[i, 4]:.3g}" for i in shown]
    colors = [_LONE if i in strongest else _PARTNER for i in shown]
    text = f"{title}: {len(rows)} detections, {len(lone)} without a partner{best}"
    return _panel(scaled, factor, text, rows[shown, :4], labels, colors)


def _panel(
    scaled: np.ndarray, factor: float, title: str, boxes_xywh: Any, labels: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
) -> Image.Image:
    boxes = np.asarray(boxes_xywh, np.float64).reshape(-1, 4) * factor
    with np.errstate(invalid="ignore"):
        boxes[:, 2:] += boxes[:, :2]
    drawn = draw_boxes(scaled, boxes, labels, colors)
    panel = Image.new("RGB", (max(drawn.width, _NARROWEST), drawn.height + _TITLE), _PAPER)
    panel.paste(drawn, (0, _TITLE))
    ImageDraw.Draw(panel).text((2, 3), title, fill=_INK)
    return panel
