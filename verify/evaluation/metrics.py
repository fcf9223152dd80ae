"""COCO metrics: pycocotools gives the numbers of record, a faster engine only where it gives the same."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from effdet_model.errors import InputError, unknown_name
from effdet_model.extras import needs
from verify.evaluation.coco import CocoDataset

METRIC_NAMES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "ARmax1", "ARmax10", "ARmax100", "ARs", "ARm", "ARl",
)  # fmt: skip
"""The 12 COCO metrics in the order in which pycocotools prints them."""

EVALUATORS = ("pycocotools", "faster_coco_eval")
_CHECKED_IMAGES = 500
_EQUAL = 1e-9

Result = Mapping[str, Any]
"""One detection as in COCO's results format: image_id, category_id, bbox (x, y, w, h in original pixels), score."""


@dataclass(frozen=True)
class ClassMetrics:
    """One category's AP at IoU 0.50:0.95, 0.50 and 0.75, and AR with 100 detections; -1: nothing to measure."""

    ap: float
    ap50: float
    ap75: float
    ar100: float


@dataclass(frozen=True)
class PrecisionCurves:
    """Precision over recall as pycocotools interpolates it, all areas, 100 detections.

    Attributes:
        recalls: 101 steps from 0 to 1. by_iou: "0.50", "0.75", "0.90" and "0.50:0.95" -> mean over the categories
            with boxes. by_class: category name -> precision at IoU 0.50.
    """

    recalls: tuple[float, ...]
    by_iou: Mapping[str, tuple[float, ...]]
    by_class: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class CocoMetrics:
    """The 12 numbers, AP of every category, and how they were computed.

    Attributes:
        values: by the names of `METRIC_NAMES`, in [0, 1]; -1 where there is nothing to measure.
        per_class: category name -> AP; -1 for a category without boxes.
        evaluator: the engine whose numbers these are. notes: what to know of them.
        classes: category name -> its metrics. curves: None where there is nothing to measure.
    """

    values: Mapping[str, float]
    per_class: Mapping[str, float]
    evaluator: str = "pycocotools"
    notes: tuple[str, ...] = field(default=())
    classes: Mapping[str, ClassMetrics] = field(default_factory=dict)
    curves: PrecisionCurves | None = None

    @property
    def ap(self) -> float:
        """AP at IoU 0.50:0.95, all areas, 100 detections."""
        return self.values["AP"]


def coco_metrics(
    dataset: CocoDataset,
    results: Sequence[Result],
    image_ids: Iterable[int] | None = None,
    evaluator: str = "pycocotools",
) -> CocoMetrics:
    """COCO metrics of detections.

    Args:
        dataset: with annotations.
        results: of any number of images, those without detections included.
        image_ids: the images to judge; all of the dataset by default.
        evaluator: "pycocotools", or "faster_coco_eval", whose numbers are taken only if it agrees with pycocotools
            on the first 500 images of this very run.

    Raises:
        InputError: the dataset has no annotations, a result belongs to no image, or the engine is unknown or absent.
    """
    check_evaluator(evaluator)
    if dataset.annotations is None:
        raise InputError(f"metrics: expected annotations, found none in {dataset.source}; name --annotations.")
    ids = [image.id for image in dataset.images] if image_ids is None else list(image_ids)
    strangers = sorted({result["image_id"] for result in results} - set(ids))
    if strangers:
        raise InputError(
            f"detections: expected images of {dataset.source}, found {len(strangers)} other image ids "
            f"({', '.join(map(str, strangers[:5]))}); these detections belong to another dataset."
        )
    truth = _dataset(dataset, ids)
    if evaluator == "pycocotools":
        return _named(_evaluate("pycocotools", truth, results, ids), dataset, evaluator, ())
    sample = ids[:_CHECKED_IMAGES]
    difference = _disagreement(truth, [r for r in results if r["image_id"] in set(sample)], sample, evaluator)
    if difference > _EQUAL:
        note = (
            f"{evaluator} differs from pycocotools by {difference:.2e} on the first {len(sample)} images, so these "
            "numbers are pycocotools'."
        )
        return _named(_evaluate("pycocotools", truth, results, ids), dataset, "pycocotools", (note,))
    note = f"{evaluator} agrees with pycocotools on the first {len(sample)} images of this run."
    return _named(_evaluate(evaluator, truth, results, ids), dataset, evaluator, (note,))


@dataclass(frozen=True)
class _Evaluated:
    stats: list[float]
    per_category: dict[int, float]
    precision: npt.NDArray[np.float64]
    """[IoU threshold, recall step, category], -1 where there is nothing to measure."""
    recall: npt.NDArray[np.float64]
    """[IoU threshold, category]."""


def _dataset(dataset: CocoDataset, ids: Sequence[int]) -> dict[str, Any]:
    wanted = set(ids)
    boxes = [dict(box) for box in dataset.annotations or () if box["image_id"] in wanted]
    categories = {box["category_id"] for box in boxes} | set(dataset.categories)
    return {
        "images": [{"id": id_} for id_ in ids],
        "annotations": boxes,
        "categories": [{"id": id_, "name": dataset.categories.get(id_, str(id_))} for id_ in sorted(categories)],
    }


def _evaluate(engine: str, truth: dict[str, Any], results: Sequence[Result], ids: Sequence[int]) -> _Evaluated:
    coco_class, eval_class = _engine(engine)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = coco_class()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        detections = ground_truth.loadRes([dict(result) for result in results]) if results else coco_class()
        evaluation = eval_class(ground_truth, detections, "bbox")
        evaluation.params.imgIds = sorted(ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    recall = np.asarray(evaluation.eval["recall"])[:, :, 0, -1]
    per_category = {
        int(category): _mean(precision[:, :, index]) for index, category in enumerate(evaluation.params.catIds)
    }
    stats = [float(value) for value in evaluation.stats[: len(METRIC_NAMES)]]
    return _Evaluated(stats, per_category, precision, recall)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Of what is measured; -1 where nothing is."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0


def _engine(name: str) -> tuple[Any, Any]:
    with needs("eval", f"COCO metrics by {name}"):
        if name == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            return COCO, COCOeval
        from faster_coco_eval import COCO as FasterCoco
        from faster_coco_eval import COCOeval_faster

        return FasterCoco, COCOeval_faster


def check_evaluator(name: str = "pycocotools") -> None:
    """Before any work: whether an engine can measure.

    Raises:
        InputError: it is unknown or not installed.
    """
    if name not in EVALUATORS:
        raise unknown_name("evaluator", name, EVALUATORS)
    for needed in dict.fromkeys(("pycocotools", name)):
        _engine(needed)


def _disagreement(truth: dict[str, Any], results: Sequence[Result], ids: Sequence[int], engine: str) -> float:
    wanted = set(ids)
    part = {**truth, "annotations": [dict(b) for b in truth["annotations"] if b["image_id"] in wanted]}
    part["images"] = [{"id": id_} for id_ in ids]
    record, fast = (_evaluate(name, part, results, ids) for name in ("pycocotools", engine))
    pairs = list(zip(record.stats, fast.stats, strict=True))
    pairs += [(value, fast.per_category.get(id_, math.inf)) for id_, value in record.per_category.items()]
    return max(abs(a - b) for a, b in pairs)


def _named(evaluated: _Evaluated, dataset: CocoDataset, engine: str, notes: tuple[str, ...]) -> CocoMetrics:
    ids = list(evaluated.per_category)
    names = class_names(dataset, ids)
    return CocoMetrics(
        dict(zip(METRIC_NAMES, evaluated.stats, strict=True)),
        {names[id_]: value for id_, value in evaluated.per_category.items()},
        engine,
        notes,
        {names[id_]: _class_metrics(evaluated, index) for index, id_ in enumerate(ids)},
        _curves(evaluated, [names[id_] for id_ in ids]),
    )


def class_names(dataset: CocoDataset, ids: Iterable[int]) -> dict[int, str]:
    """Category id -> a name that no other has: the dataset's, with the id before it where names repeat."""
    names = {id_: dataset.categories.get(id_, str(id_)) for id_ in ids}
    if len(set(names.values())) == len(names):
        return names
    return {id_: f"{id_} {dataset.categories.get(id_, '')}".strip() for id_ in names}


_AT_50, _AT_75, _AT_90 = 0, 5, 8
"""Places of IoU thresholds among pycocotools' ten, from 0.50 to 0.95."""


def _class_metrics(evaluated: _Evaluated, index: int) -> ClassMetrics:
    precision = evaluated.precision[:, :, index]
    return ClassMetrics(
        _mean(precision), _mean(precision[_AT_50]), _mean(precision[_AT_75]), _mean(evaluated.recall[:, index])
    )


def _curves(evaluated: _Evaluated, names: Sequence[str]) -> PrecisionCurves | None:
    precision = evaluated.precision
    measured = [bool((precision[:, :, index] > -1).all()) for index in range(len(names))]
    if not any(measured):
        return None
    mean = precision[:, :, measured].mean(axis=2)
    rows = {"0.50": mean[_AT_50], "0.75": mean[_AT_75], "0.90": mean[_AT_90], "0.50:0.95": mean.mean(axis=0)}
    return PrecisionCurves(
        tuple(step / 100 for step in range(precision.shape[1])),
        {name: tuple(map(float, row)) for name, row in rows.items()},
        {
            name: tuple(map(float, precision[_AT_50, :, index]))
            for index, name in enumerate(names)
            if measured[index]
        },
    )
