"""Which images of a run are worth looking at: those it does worst on, and best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effdet_model.errors import InputError
from verify.evaluation.coco import CocoDataset
from verify.evaluation.findings.analysis import Analysis, ImageCounts
from verify.evaluation.findings.pictures import detections_only, truth_and_detections
from verify.evaluation.store import ImageResult

WORST_SHOWN, BEST_SHOWN, FOUND_SHOWN = 6, 4, 8
SHOWN_SCORE = 0.3
"""Without a truth, detections are drawn from here on."""


@dataclass(frozen=True)
class Example:
    """One picture: "worst", "best" or, without a truth, "found"; JPEG bytes."""

    kind: str
    image_id: int
    file_name: str
    jpeg: bytes
    caption: str


def examples_of(
    dataset: CocoDataset, results: Sequence[ImageResult], analysis: Analysis | None
) -> tuple[Example, ...]:
    """Pictures of the worst and best images by F1; without annotations of those with most detections."""
    by_id = {result.image_id: result for result in results}
    records = {image.id: image for image in dataset.images}
    if analysis is None:
        return _found(dataset, results)
    found = []
    for kind, counts in (*_worst(analysis), *_best(analysis)):
        record, rows = records[counts.image_id], by_id[counts.image_id].rows
        boxes = [box for box in dataset.annotations or () if box["image_id"] == counts.image_id]
        caption = f"{record.path.name}: {counts.hits} right, {counts.false} wrong, {counts.missed} missed"
        try:
            jpeg = truth_and_detections(record.path, boxes, rows, counts, dataset.categories)
        except InputError:  # the file is gone since it was read; the table still has its numbers
            continue
        found.append(Example(kind, counts.image_id, record.path.name, jpeg, caption))
    return tuple(found)


def _worst(analysis: Analysis) -> list[tuple[str, ImageCounts]]:
    """Most errors per right one first; images without any error are not among them."""
    wrong = [image for image in analysis.images if image.false or image.missed]
    wrong.sort(key=lambda image: (image.f1 or 0.0, -image.false - image.missed))
    return [("worst", image) for image in wrong[:WORST_SHOWN]]


def _best(analysis: Analysis) -> list[tuple[str, ImageCounts]]:
    """Highest F1 first, of equal ones those with most objects."""
    right = [image for image in analysis.images if image.hits]
    right.sort(key=lambda image: (-(image.f1 or 0.0), -image.truths))
    shown = {image.image_id for _, image in _worst(analysis)}
    return [("best", image) for image in right if image.image_id not in shown][:BEST_SHOWN]


def _found(dataset: CocoDataset, results: Sequence[ImageResult]) -> tuple[Example, ...]:
    records = {image.id: image for image in dataset.images}
    strong = {result.image_id: int((result.rows[:, 4] >= SHOWN_SCORE).sum()) for result in results}
    most = sorted(results, key=lambda result: -strong[result.image_id])[:FOUND_SHOWN]
    found = []
    for result in most:
        record, count = records[result.image_id], strong[result.image_id]
        try:
            jpeg = detections_only(record.path, result.rows, SHOWN_SCORE, dataset.categories)
        except InputError:
            continue
        caption = f"{record.path.name}: {count} detections from score {SHOWN_SCORE} on"
        found.append(Example("found", result.image_id, record.path.name, jpeg, caption))
    return tuple(found)
