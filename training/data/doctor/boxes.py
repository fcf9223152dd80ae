"""What is wrong with boxes: order of coordinates, outside, empty, tiny, twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.dataset import DetectionDataset
from training.data.doctor.report import Finding, Place

Rows = npt.NDArray[np.float64]

_EXAMPLES = 6
_SLACK = 2.0
"""Pixels by which a box may reach beyond its picture without looking like a mistake."""
_FITS, _DOES_NOT_FIT = 0.99, 0.95
"""Shares of boxes within their pictures from which another order of the numbers looks right, and below which this one
looks wrong."""
_MANY = 100
"""google/automl's trainer stops at a picture with more boxes."""


class Table:
    """All boxes of the pictures whose size is known, in one table.

    Attributes:
        boxes: float64 [n, 4], (y0, x0, y1, x1) in pixels. sides: float64 [n, 2], (height, width) of each one's picture.
        classes, crowd, picture, number: of each box; `number` counts within its picture.
    """

    def __init__(self, dataset: DetectionDataset, sizes: Sequence[tuple[int, int] | None]) -> None:
        known = [index for index, size in enumerate(sizes) if size is not None]
        parts = [dataset.boxes_of(index, sizes[index]) for index in known]
        counts = [len(part) for part in parts]
        self.boxes: Rows = np.concatenate([np.zeros((0, 4)), *parts])
        sides = np.array([sizes[index] for index in known], np.float64).reshape(-1, 2)
        self.sides: Rows = np.repeat(sides, counts, axis=0)
        self.picture = np.repeat(np.array(known, np.int64), counts)
        empty = np.zeros(0, np.int64)
        self.classes = np.concatenate([empty, *(dataset.classes_of(index) for index in known)])
        self.crowd = np.concatenate([empty, *(dataset.crowd_of(index) for index in known)]).astype(bool)
        self.number = np.concatenate([empty, *(np.arange(count) for count in counts)])

    def places(self, chosen: Any) -> tuple[Place, ...]:
        """A few of the chosen boxes (bool [n]), of different pictures where there are some."""
        rows = np.nonzero(chosen)[0]
        _, first = np.unique(self.picture[rows], return_index=True)
        picked = rows[np.sort(first)][:_EXAMPLES]
        return tuple(Place(int(self.picture[row]), int(self.number[row])) for row in picked)


def box_findings(table: Table, data_format: str) -> Iterator[Finding]:
    """All of this file."""
    if not len(table.boxes):
        return
    wrong_order = list(order_findings(table, data_format))
    yield from wrong_order
    yield from _outside_and_empty(table)
    yield from _repeated(table)
    counts = np.bincount(table.picture)
    crowded = np.nonzero(counts > _MANY)[0]
    if len(crowded):
        yield Finding(
            "note", "many_boxes",
            f"{len(crowded)} pictures have more than {_MANY} boxes, the most {counts.max()}; all are trained.",
            len(crowded), 0, tuple(Place(int(index)) for index in crowded[:_EXAMPLES]),
        )  # fmt: skip


def order_findings(table: Table, data_format: str) -> Iterator[Finding]:
    """Whether another order of the four numbers fits the pictures, where the one that was read does not."""
    fit = _share_within(table.boxes, table.sides)
    if fit >= _DOES_NOT_FIT:
        return
    readings = {name: _share_within(boxes, table.sides) for name, boxes in _other_readings(table, data_format).items()}
    best = max(readings, key=lambda name: readings[name], default=None)
    outside = ~_within(table.boxes, table.sides)
    if best is not None and readings[best] >= max(_FITS, fit):
        yield Finding(
            "warning", "coordinate_order",
            f"The order of coordinates looks wrong: only {fit:.0%} of the boxes lie within their pictures, but "
            f"{readings[best]:.0%} would if the four numbers were {best}; convert the annotations.",
            int(outside.sum()), len(outside), table.places(outside),
        )  # fmt: skip
        return
    yield Finding(
        "warning", "boxes_beyond",
        f"{outside.sum()} of {len(outside)} boxes reach more than {_SLACK:g} pixels beyond their pictures, or end "
        "before they begin: look at the examples; the order of coordinates or the pictures' sizes may be wrong.",
        int(outside.sum()), len(outside), table.places(outside),
    )  # fmt: skip


def _within(boxes: Rows, sides: Rows) -> npt.NDArray[np.bool_]:
    inside = (boxes[:, :2] >= -_SLACK).all(1) & (boxes[:, 2:] <= sides + _SLACK).all(1)
    return np.asarray(inside & (boxes[:, 2:] >= boxes[:, :2]).all(1))


def _share_within(boxes: Rows, sides: Rows) -> float:
    return float(_within(boxes, sides).mean())


def _other_readings(table: Table, data_format: str) -> dict[str, Rows]:
    """Boxes (y0, x0, y1, x1) as they would be if the file's four numbers meant something else."""
    y0, x0, y1, x1 = table.boxes.T
    height, width = table.sides.T
    if data_format == "coco":
        a, b, c, d = x0, y0, x1 - x0, y1 - y0
        return {
            "corners [x0, y0, x1, y1]": np.stack([b, a, d, c], 1),
            "corners [y0, x0, y1, x1]": np.stack([a, b, c, d], 1),
            "[y, x, height, width]": np.stack([a, b, a + c, b + d], 1),
        }
    if data_format == "yolo":
        a, b, c, d = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
        scale = np.stack([height, width, height, width], 1)
        return {
            "corners x0 y0 x1 y1": np.stack([b, a, d, c], 1) * scale,
            "a corner and sizes, x0 y0 width height": np.stack([b, a, b + d, a + c], 1) * scale,
        }
    scale_y, scale_x = height / width, width / height
    return {
        "y before x": np.stack([x0, y0, x1, y1], 1)
        if data_format == "voc"
        else np.stack([x0 * scale_y, y0 * scale_x, x1 * scale_y, y1 * scale_x], 1),
        "the second corner before the first": np.stack([y1, x1, y0, x0], 1),
    }


def _outside_and_empty(table: Table) -> Iterator[Finding]:
    boxes, sides = table.boxes, table.sides
    total = len(boxes)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    clipped = np.clip(boxes, 0, np.concatenate([sides, sides], 1))
    outside = np.asarray(~empty & (clipped[:, 2:] <= clipped[:, :2]).any(1))
    partly = ~empty & ~outside & (np.abs(clipped - boxes) > _SLACK).any(1)
    for kind, chosen, words in (
        ("empty_boxes", empty, "boxes have no width or height; they are left out"),
        ("outside_boxes", outside, "boxes lie outside their pictures; they are left out"),
        ("clipped_boxes", partly, f"boxes reach more than {_SLACK:g} pixels beyond their pictures; they are cut there"),
    ):
        count = int(chosen.sum())
        if count:
            yield Finding("warning", kind, f"{count} of {total} {words}.", count, total, table.places(chosen))
    if bool((empty | outside).all()):
        yield Finding("error", "no_usable_boxes", f"None of {total} boxes lies in its picture: nothing can be learnt.")


def _repeated(table: Table) -> Iterator[Finding]:
    keys = np.concatenate([table.picture[:, None], table.classes[:, None], table.boxes], 1)
    _, first = np.unique(keys, axis=0, return_index=True)
    repeated = np.ones(len(keys), bool)
    repeated[first] = False
    count = int(repeated.sum())
    if count:
        yield Finding(
            "warning", "repeated_boxes",
            f"{count} of {len(keys)} boxes are there twice, with the same class and corners; the second ones have no "
            "effect on the targets.", count, len(keys), table.places(repeated),
        )  # fmt: skip
