"""Two lists of detections compared: one to one, and as COCO would score one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verify.evaluation.coco import CocoDataset, ImageRecord
from verify.evaluation.metrics import coco_metrics

Rows = npt.NDArray[np.float32]
"""float32 [n, 6]: x, y, width, height in original pixels, score, category id; best score first."""

BOX_TOLERANCE = 0.1
"""Pixels of the original image, on every side of a box."""
SCORE_TOLERANCE = 1e-4
STRONG = 0.05
"""Detections from this score on are those that matter."""
_EDGE = 1e-5
"""Scores this close to the end of a list are in or out by rounding."""


@dataclass(frozen=True)
class ImageAgreement:
    """How the detections of one image agree.

    Attributes:
        tensorflow, pytorch: number of detections. matched: pairs of the same class whose sides are within 0.1 pixel
            and whose scores are within 1e-4, each detection in one pair at most.
        strong, strong_matched: TensorFlow's detections with a score of at least 0.05, and how many have a partner.
        box_difference, score_difference: the largest within the pairs.
        disagreement: sum of the scores of all detections without a partner, on both sides.
        unmatched_tensorflow, unmatched_pytorch: their positions.
    """

    image_id: int
    file_name: str
    tensorflow: int
    pytorch: int
    matched: int
    strong: int
    strong_matched: int
    box_difference: float
    score_difference: float
    disagreement: float
    unmatched_tensorflow: tuple[int, ...]
    unmatched_pytorch: tuple[int, ...]


def match(reference: Rows, port: Rows) -> list[tuple[int, int]]:
    """Pairs (position in reference, position in port), the closest pairs first."""
    if not len(reference) or not len(port):
        return []
    box = np.abs(_corners(reference)[:, None] - _corners(port)[None]).max(-1)
    score = np.abs(reference[:, None, 4].astype(np.float64) - port[None, :, 4])
    close = (box <= BOX_TOLERANCE) & (score <= SCORE_TOLERANCE) & (reference[:, None, 5] == port[None, :, 5])
    left, right = np.nonzero(close)
    order = np.argsort(box[left, right] / BOX_TOLERANCE + score[left, right] / SCORE_TOLERANCE, kind="stable")
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for a, b in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if a not in used[0] and b not in used[1]:
            pairs.append((a, b))
            used[0].add(a)
            used[1].add(b)
    return pairs


def agree(image: ImageRecord, reference: Rows, port: Rows) -> ImageAgreement:
    """Match the detections of one image."""
    pairs = match(reference, port)
    a = np.array([pair[0] for pair in pairs], np.int64)
    b = np.array([pair[1] for pair in pairs], np.int64)
    lone_a = np.setdiff1d(np.arange(len(reference)), a)
    lone_b = np.setdiff1d(np.arange(len(port)), b)
    strong = reference[:, 4] >= STRONG
    return ImageAgreement(
        image.id,
        image.path.name,
        len(reference),
        len(port),
        len(pairs),
        int(strong.sum()),
        int(strong[a].sum()),
        float(np.abs(_corners(reference)[a] - _corners(port)[b]).max(initial=0)),
        float(np.abs(reference[a, 4] - port[b, 4]).max(initial=0)),
        float(reference[lone_a, 4].sum() + port[lone_b, 4].sum()),
        tuple(lone_a.tolist()),
        tuple(lone_b.tolist()),
    )


@dataclass(frozen=True)
class AgreementAP:
    """COCO AP of PyTorch's detections with TensorFlow's detections as the truth.

    Attributes:
        ap, ap75: in [0, 1]; 1.0 where both sides found nothing.
        truths: TensorFlow's detections that count. at_the_edge: those at the end of a full list, or just above the
            score threshold, which rounding can put in or out: they count neither way.
    """

    ap: float
    ap75: float
    truths: int
    at_the_edge: int


def agreement_ap(
    reference: Mapping[int, Rows], port: Mapping[int, Rows], limit: int, score_threshold: float | None
) -> AgreementAP:
    """Score PyTorch's detections as COCO does, TensorFlow's being the truth; both by image id.

    Boxes without an area (clipped away) are left out on both sides: no box can overlap them.

    Args:
        limit: most detections of an image. score_threshold: of the suppression.
    """
    truths: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, rows in reference.items():
        edge = _edge(rows, limit, score_threshold)
        for row in _with_area(rows).astype(np.float64).tolist():
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": image_id,
                    "category_id": int(row[5]),
                    "bbox": row[:4],
                    "area": row[2] * row[3],
                    "iscrowd": int(row[4] <= edge),
                }
            )
        results += _counting(image_id, rows, port[image_id], limit, score_threshold)
    count = sum(not truth["iscrowd"] for truth in truths)
    if not count:
        perfect = 1.0 if not results else 0.0
        return AgreementAP(perfect, perfect, 0, len(truths))
    images = tuple(ImageRecord(id_, Path("-")) for id_ in reference)
    metrics = coco_metrics(CocoDataset(images, {}, tuple(truths)), results)
    return AgreementAP(metrics.ap, metrics.values["AP75"], count, len(truths) - count)


def _counting(
    image_id: int, reference: Rows, port: Rows, limit: int, score_threshold: float | None
) -> list[dict[str, Any]]:
    """PyTorch's detections as results; those at the edge count only with a partner."""
    partners = {b for _, b in match(reference, port)}
    edge = _edge(port, limit, score_threshold)
    kept = [i for i, row in enumerate(port) if row[4] > edge or i in partners]
    rows = _with_area(port[kept]).astype(np.float64).tolist()
    return [
        {"image_id": image_id, "category_id": int(row[5]), "bbox": row[:4], "score": row[4]} for row in rows
    ]


def _edge(rows: Rows, limit: int, score_threshold: float | None) -> float:
    ends = [-np.inf]
    if len(rows) >= limit:
        ends.append(float(rows[:, 4].min()))
    if score_threshold is not None:
        ends.append(score_threshold)
    return max(ends) + _EDGE


def _with_area(rows: Rows) -> Rows:
    return rows[(rows[:, 2] > 0) & (rows[:, 3] > 0)]


def _corners(rows: Rows) -> npt.NDArray[np.float64]:
    boxes = rows[:, :4].astype(np.float64)
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def worst_first(images: list[ImageAgreement]) -> list[ImageAgreement]:
    """By disagreement, then by the largest difference within pairs."""
    return sorted(images, key=lambda i: (-i.disagreement, -i.box_difference, -i.score_difference, i.image_id))
