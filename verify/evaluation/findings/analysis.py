"""What a model finds, misses and takes for something else, at one IoU and one score: confusion, sizes, images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verify.evaluation.coco import CocoDataset
from verify.evaluation.metrics import class_names
from verify.evaluation.store import ImageResult

MATCH_IOU = 0.5
"""From here on a detection counts as being of an object."""
BACKGROUND = "background"
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
"""COCO's size buckets by the annotation's area in pixels: from, up to."""

_IGNORED = -2
_FREE = -1


@dataclass(frozen=True)
class OperatingPoint:
    """The score with the best F1 over all classes, and what detections from this score on come to."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ImageCounts:
    """One image at the operating point.

    Attributes:
        truths: objects, crowds left out. hits: found with their class. false: detections of no object or of another
            class. missed: objects without a hit.
        hit_rows, false_rows: places in the image's detections. missed_boxes: places in its annotations.
    """

    image_id: int
    truths: int
    hits: int
    false: int
    missed: int
    hit_rows: tuple[int, ...] = ()
    false_rows: tuple[int, ...] = ()
    missed_boxes: tuple[int, ...] = ()

    @property
    def f1(self) -> float | None:
        """2 hits / (2 hits + false + missed); None where there is nothing to find and nothing found."""
        total = 2 * self.hits + self.false + self.missed
        return 2 * self.hits / total if total else None


@dataclass(frozen=True)
class ClassCounts:
    """One class at the operating point: objects, hits, and detections that are no hits."""

    truths: int = 0
    hits: int = 0
    false: int = 0


@dataclass(frozen=True)
class Analysis:
    """Detections held against the truth at IoU 0.5.

    Attributes:
        point: None where there are no objects or no detections.
        labels: names of the classes that occur, then "background".
        confusion: [truth][detected] counts at the point; the last row is detections of no object, the last column
            objects without a detection.
        sizes: bucket -> (objects, hits). classes: by name. images: in the dataset's order.
        hit_scores, other_scores: of all detections above 0, histogram counts over `SCORE_EDGES`.
    """

    point: OperatingPoint | None
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    sizes: Mapping[str, tuple[int, int]]
    classes: Mapping[str, ClassCounts]
    images: tuple[ImageCounts, ...]
    hit_scores: tuple[int, ...]
    other_scores: tuple[int, ...]


SCORE_EDGES = tuple(step / 20 for step in range(21))


@dataclass
class _Matched:
    """One image: `of_row[i]` is the annotation that detection i hits, `_FREE` or `_IGNORED` (it lies in a crowd)."""

    result: ImageResult
    boxes: Sequence[Mapping[str, Any]]
    ious: npt.NDArray[np.float64]
    of_row: list[int] = field(default_factory=list)


def analyse(dataset: CocoDataset, results: Sequence[ImageResult]) -> Analysis:
    """Hold detections against the annotations.

    Args:
        dataset: with annotations. results: of the images that were judged.
    """
    boxes: dict[int, list[Mapping[str, Any]]] = {}
    for box in dataset.annotations or ():
        boxes.setdefault(box["image_id"], []).append(box)
    matched = [_match(result, boxes.get(result.image_id, [])) for result in results]
    point = _best_point(matched)
    score = point.score if point else math.inf
    confusion: Counter[tuple[int | None, int | None]] = Counter()
    images = tuple(_counts(one, score, confusion) for one in matched)
    used = sorted({id_ for pair in confusion for id_ in pair if id_ is not None})
    names = class_names(dataset, {*used, *dataset.categories})
    order = [*used, None]
    hits, others = _score_histograms(matched)
    return Analysis(
        point,
        (*(names[id_] for id_ in used), BACKGROUND),
        tuple(tuple(confusion[(truth, found)] for found in order) for truth in order),
        _sizes(matched, score),
        {names[id_]: _class_counts(confusion, id_) for id_ in used},
        images,
        hits,
        others,
    )


def _match(result: ImageResult, boxes: Sequence[Mapping[str, Any]]) -> _Matched:
    """Detections in the order of their scores take the free object of their class that they overlap most."""
    from pycocotools import mask

    rows = result.rows.astype(np.float64)
    crowds = [int(box["iscrowd"]) for box in boxes]
    ious = np.zeros((len(rows), len(boxes)))
    if len(rows) and len(boxes):
        truth = np.array([box["bbox"] for box in boxes], np.float64)
        ious = np.asarray(mask.iou(np.ascontiguousarray(rows[:, :4]), truth, crowds))
    matched = _Matched(result, boxes, ious)
    free = {index for index, crowd in enumerate(crowds) if not crowd}
    for row, values in enumerate(ious):
        same = [i for i, box in enumerate(boxes) if box["category_id"] == int(rows[row, 5]) and values[i] >= MATCH_IOU]
        objects = [i for i in same if i in free]
        if objects:
            best = max(objects, key=lambda i: values[i])
            free.discard(best)
            matched.of_row.append(best)
        else:
            matched.of_row.append(_IGNORED if any(crowds[i] for i in same) else _FREE)
    return matched


def _best_point(matched: Sequence[_Matched]) -> OperatingPoint | None:
    truths = sum(not box["iscrowd"] for one in matched for box in one.boxes)
    pairs = [
        (float(row[4]), match >= 0)
        for one in matched
        for row, match in zip(one.result.rows, one.of_row, strict=True)
        if match != _IGNORED and row[4] > 0
    ]
    if not truths or not pairs:
        return None
    scores, hits = (np.array(column) for column in zip(*sorted(pairs, key=lambda pair: -pair[0]), strict=True))
    found = np.cumsum(hits)
    last = np.append(scores[1:] != scores[:-1], True)
    precision, recall = found / np.arange(1, len(found) + 1), found / truths
    f1 = np.where(last, 2 * found / (np.arange(1, len(found) + 1) + truths), -1)
    best = int(np.argmax(f1))
    return OperatingPoint(float(scores[best]), float(precision[best]), float(recall[best]), float(f1[best]))


def _counts(one: _Matched, score: float, confusion: Counter[tuple[int | None, int | None]]) -> ImageCounts:
    """One image at a score, counted into the confusion of all."""
    rows, boxes = one.result.rows, one.boxes
    strong = [row for row in range(len(rows)) if rows[row, 4] >= score and one.of_row[row] != _IGNORED]
    hits = tuple(row for row in strong if one.of_row[row] >= 0)
    false = tuple(row for row in strong if one.of_row[row] < 0)
    taken = {one.of_row[row] for row in hits}
    missed = tuple(i for i, box in enumerate(boxes) if not box["iscrowd"] and i not in taken)
    for row in hits:
        category = int(boxes[one.of_row[row]]["category_id"])
        confusion[(category, category)] += 1
    pairs = sorted(
        ((one.ious[row, i], row, i) for row in false for i in missed if one.ious[row, i] >= MATCH_IOU), reverse=True
    )
    mistaken_rows: set[int] = set()
    mistaken_boxes: set[int] = set()
    for _, row, i in pairs:
        if row not in mistaken_rows and i not in mistaken_boxes:
            mistaken_rows.add(row)
            mistaken_boxes.add(i)
            confusion[(int(boxes[i]["category_id"]), int(rows[row, 5]))] += 1
    confusion.update((None, int(rows[row, 5])) for row in false if row not in mistaken_rows)
    confusion.update((int(boxes[i]["category_id"]), None) for i in missed if i not in mistaken_boxes)
    truths = sum(not box["iscrowd"] for box in boxes)
    return ImageCounts(one.result.image_id, truths, len(hits), len(false), len(missed), hits, false, missed)


def _class_counts(confusion: Mapping[tuple[int | None, int | None], int], category: int) -> ClassCounts:
    hits = confusion.get((category, category), 0)
    truths = sum(count for (truth, _), count in confusion.items() if truth == category)
    found = sum(count for (_, detected), count in confusion.items() if detected == category)
    return ClassCounts(truths, hits, found - hits)


def _sizes(matched: Sequence[_Matched], score: float) -> dict[str, tuple[int, int]]:
    truths: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for one in matched:
        rows = one.result.rows
        taken = {match for row, match in enumerate(one.of_row) if match >= 0 and rows[row, 4] >= score}
        for index, box in enumerate(one.boxes):
            if not box["iscrowd"]:
                bucket = next(name for name, (_, end) in SIZES.items() if box["area"] < end)
                truths[bucket] += 1
                hits[bucket] += index in taken
    return {name: (truths[name], hits[name]) for name in SIZES}


def _score_histograms(matched: Sequence[_Matched]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    scores: dict[bool, list[float]] = {True: [], False: []}
    for one in matched:
        for row, match in zip(one.result.rows, one.of_row, strict=True):
            if match != _IGNORED and row[4] > 0:
                scores[match >= 0].append(float(row[4]))
    hits, others = (np.histogram(scores[kind], SCORE_EDGES)[0] for kind in (True, False))
    return tuple(map(int, hits)), tuple(map(int, others))
