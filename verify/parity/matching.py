"""Two lists of detections compared: one to one, and as COCO would score one against the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verify.evaluation.coco import CocoDataset, ImageRecord
from verify.evaluation.metrics import coco_metrics
from verify.parity.rounding import BOX_FLOOR, difference, score_floor, share

Rows = npt.NDArray[np.float32]
"""float32 [n, 6]: x, y, width, height in original pixels, score, category id; best score first."""

STRONG = 0.05
"""Detections from this score on are those that matter."""
LARGEST_AREA = 1e10
"""pycocotools leaves larger boxes out; an untrained or wrongly sized model has them."""
_MEASURABLE_OVERLAP = 0.975
"""Pairs that are equal by rounding and still overlap less are slivers, thinner than rounding: no IoU measures them."""
_EDGE = 1e-5
"""Scores this close to the end of a list are in or out by rounding."""


@dataclass(frozen=True)
class ImageAgreement:
    """How the detections of one image agree.

    Attributes:
        tensorflow, pytorch: number of detections. matched: pairs of the same class whose sides and scores are within
            what is allowed (0.1 pixel and 1e-4, more only where rounding is), each detection in one pair at most.
        strong, strong_matched: detections of both sides with a score of at least 0.05, and how many have a partner.
        by_rounding: boxes without a partner of the same place on the other side, on both sides, that TensorFlow's own
            suppression chooses from scores and boxes that differ by rounding; they have a partner then.
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
    by_rounding: int = 0

    @property
    def unmatched(self) -> int:
        """Detections without a partner, on both sides."""
        return len(self.unmatched_tensorflow) + len(self.unmatched_pytorch)


def match(
    reference: Rows, port: Rows, allowed: npt.NDArray[np.floating] | None = None
) -> list[tuple[int, int]]:
    """Pairs (position in reference, position in port), the closest pairs first.

    Args:
        allowed: [n, 2], what sides (in pixels) and score of each of the reference's may differ; the floors by default.
    """
    if not len(reference) or not len(port):
        return []
    if allowed is None:
        allowed = floors(reference)
    with np.errstate(invalid="ignore"):
        box = difference(_sides(reference)[:, None], _sides(port)[None]).max(-1)
    score = difference(reference[:, None, 4], port[None, :, 4])
    box, score = share(box, allowed[:, None, 0]), share(score, allowed[:, None, 1])
    left, right = np.nonzero((box <= 1) & (score <= 1) & (reference[:, None, 5] == port[None, :, 5]))
    order = np.argsort(box[left, right] + score[left, right], kind="stable")
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for a, b in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if a not in used[0] and b not in used[1]:
            pairs.append((a, b))
            used[0].add(a)
            used[1].add(b)
    return pairs


def floors(rows: Rows) -> npt.NDArray[np.float64]:
    """[n, 2]: what sides and score may differ where rounding is below."""
    return np.column_stack((np.full(len(rows), BOX_FLOOR), score_floor(rows[:, 4])))


def pair_differences(
    reference: Rows, port: Rows, pairs: list[tuple[int, int]]
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """(boxes: the largest of the sides, in pixels; scores) of pairs; 0 where both are not finite alike."""
    a, b = _positions(pairs)
    return (
        difference(_sides(reference)[a], _sides(port)[b]).max(1, initial=0),
        difference(reference[a, 4], port[b, 4]),
    )


def agree(
    image: ImageRecord, reference: Rows, port: Rows, allowed: npt.NDArray[np.floating] | None = None,
    by_rounding: int = 0,
) -> ImageAgreement:
    """Match the detections of one image; `allowed` as in `match`."""
    pairs = match(reference, port, allowed)
    a, b = _positions(pairs)
    lone_a = np.setdiff1d(np.arange(len(reference)), a)
    lone_b = np.setdiff1d(np.arange(len(port)), b)
    boxes, scores = pair_differences(reference, port, pairs)
    strong = int((reference[:, 4] >= STRONG).sum() + (port[:, 4] >= STRONG).sum())
    alone = int((reference[lone_a, 4] >= STRONG).sum() + (port[lone_b, 4] >= STRONG).sum())
    return ImageAgreement(
        image.id,
        image.path.name,
        len(reference),
        len(port),
        len(pairs),
        strong,
        strong - alone,
        float(boxes.max(initial=0)),
        float(scores.max(initial=0)),
        float(reference[lone_a, 4].sum() + port[lone_b, 4].sum()),
        tuple(lone_a.tolist()),
        tuple(lone_b.tolist()),
        by_rounding,
    )


@dataclass(frozen=True)
class AgreementAP:
    """COCO AP of PyTorch's detections with TensorFlow's detections as the truth.

    Attributes:
        ap, ap75: in [0, 1]; 1.0 where both sides found nothing, which proves nothing (`truths` is 0).
        truths: TensorFlow's detections that count. at_the_edge: those that count neither way: without a partner at the
            end of a full list or just above the score threshold, where rounding decides, and what IoU cannot measure.
    """

    ap: float
    ap75: float
    truths: int
    at_the_edge: int


def agreement_ap(
    reference: Mapping[int, Rows], port: Mapping[int, Rows], limit: int, score_threshold: float | None,
    allowed: Mapping[int, npt.NDArray[np.floating]] | None = None,
) -> AgreementAP:
    """Score PyTorch's detections as COCO does, TensorFlow's being the truth; both by image id.

    Boxes without an area (clipped away) are left out on both sides: no box can overlap them; and those of more than
    10^10 square pixels, which COCO does not measure; and pairs thinner than rounding. `agree` judges their partners.

    Args:
        limit: most detections of an image. score_threshold: of the suppression.
        allowed: by image id, as in `match`.
    """
    truths: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    at_the_edge = 0
    for image_id, rows in reference.items():
        mine = port[image_id]
        pairs = match(rows, mine, allowed[image_id] if allowed is not None else None)
        thin = [(a, b) for a, b in pairs if not _overlap(rows[a], mine[b]) >= _MEASURABLE_OVERLAP]
        pairs = [pair for pair in pairs if pair not in thin]
        counting = _counting(rows, {a for a, _ in pairs}, {a for a, _ in thin}, limit, score_threshold)
        at_the_edge += len(rows) - len(counting)
        for row in rows[counting].astype(np.float64).tolist():
            named = {"id": len(truths) + 1, "image_id": image_id, "category_id": int(row[5]), "iscrowd": 0}
            truths.append({**named, "bbox": row[:4], "area": row[2] * row[3]})
        for row in mine[_counting(mine, {b for _, b in pairs}, {b for _, b in thin}, limit, score_threshold)]:
            box, score, category = row[:4].tolist(), float(row[4]), int(row[5])
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    if not truths:
        perfect = 1.0 if not results else 0.0
        return AgreementAP(perfect, perfect, 0, at_the_edge)
    images = tuple(ImageRecord(id_, Path("-")) for id_ in reference)
    metrics = coco_metrics(CocoDataset(images, {}, tuple(truths)), results)
    return AgreementAP(metrics.ap, metrics.values["AP75"], len(truths), at_the_edge)


def _counting(
    rows: Rows, partnered: Collection[int], thin: Collection[int], limit: int, score_threshold: float | None
) -> list[int]:
    """The detections that count: measurable ones, at the edge only those with a partner."""
    edge = _edge(rows, limit, score_threshold)
    return [
        i for i, row in enumerate(rows)
        if _measurable(row) and (i in partnered or (row[4] > edge and i not in thin))
    ]  # fmt: skip


def _overlap(one: Rows, other: Rows) -> float:
    """Intersection over union of two boxes; 0 where it is not defined."""
    a, b = one[:4].astype(np.float64), other[:4].astype(np.float64)
    with np.errstate(all="ignore"):
        sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
        shared = np.maximum(sides, 0).prod()
        return float(np.nan_to_num(shared / (a[2:].prod() + b[2:].prod() - shared)))


def _edge(rows: Rows, limit: int, score_threshold: float | None) -> float:
    ends = [-np.inf]
    if len(rows) >= limit:
        ends.append(float(rows[:, 4].min()))
    if score_threshold is not None:
        ends.append(score_threshold)
    return max(ends) + _EDGE


def _measurable(row: Rows) -> bool:
    """Whether COCO's metrics count a box at all: an area above 0 and up to 10^10."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(row[2] > 0 and row[3] > 0 and float(row[2]) * float(row[3]) <= LARGEST_AREA)


def _sides(rows: Rows) -> npt.NDArray[np.float64]:
    """x, y, right, bottom; and where a side is infinite, its length tells."""
    boxes = rows[:, :4].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def _positions(pairs: list[tuple[int, int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def worst_first(images: list[ImageAgreement]) -> list[ImageAgreement]:
    """By disagreement, then by the largest difference within pairs."""
    return sorted(images, key=lambda i: (-i.disagreement, -i.box_difference, -i.score_difference, i.image_id))
