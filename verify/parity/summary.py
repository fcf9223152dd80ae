"""From single images to the result of a parity run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verify.evaluation.coco import ImageRecord
from verify.evaluation.metrics import CocoMetrics, coco_metrics
from verify.evaluation.published import published_verdict
from verify.evaluation.result import SkippedImage
from verify.evaluation.store import ImageResult
from verify.parity.image import ImageParity
from verify.parity.matching import STRONG, Rows, agree, agreement_ap, match, pair_differences, worst_first
from verify.parity.pictures import side_by_side
from verify.parity.result import OwnRounding, ParityResult, StageDifference, StageResult
from verify.parity.setup import Setup
from verify.parity.stages import STAGES

TODAY = "today's google/automl (anchors by ratio since 2020-09-10)"
WEAKEST = 0.001
"""The official evaluation drops scores below."""


def summarize(
    setup: Setup, found: Sequence[ImageParity], checkpoint_sha256: str, versions: Mapping[str, str]
) -> ParityResult:
    """All images together.

    Args:
        versions: of the reference's process.
    """
    from verify.environment import environment

    dataset, profile, options, config = setup.dataset, setup.profile, setup.options, setup.model.config
    records = {image.id: image for image in dataset.images}
    by_id = {image.image_id: image for image in found}
    ordered = [by_id[image.id] for image in dataset.images if image.id in by_id]
    used = [image for image in ordered if image.refused is None]
    agreements = [
        agree(records[image.image_id], image.resolved, image.mine, image.allowed, image.by_rounding) for image in used
    ]
    theirs, mine, resolved = ({i.image_id: getattr(i, side) for i in used} for side in ("theirs", "mine", "resolved"))
    allowed = {image.image_id: image.allowed for image in used}
    ends = (profile.max_output_size, profile.score_threshold)
    decided = any(image.by_rounding for image in used)
    agreement = agreement_ap(resolved, mine, *ends, allowed)
    theirs_metrics, my_metrics = _metrics(setup, theirs), _metrics(setup, mine)
    resolved_metrics = _metrics(setup, resolved) if decided else theirs_metrics
    skipped = _skipped(setup, ordered)
    published = None
    if my_metrics is not None:
        conditions = [f"images ({len(skipped)} skipped)"] * bool(skipped)
        published = published_verdict(dataset, config, profile, setup.metadata, setup.era, my_metrics.ap, conditions)
    return ParityResult(
        variant=config.name,
        config=config.to_dict(),
        reference_config=setup.reference_config,
        config_differences=setup.differences,
        checkpoint=setup.checkpoint_label,
        checkpoint_sha256=checkpoint_sha256,
        weights=str(options.weights),
        weights_sha256=setup.weights_sha256,
        variables=setup.kind,
        image_size=config.image_size,
        nms=dataclasses.asdict(profile),
        semantics=f"family {setup.era.family} as published: {setup.era.reason}" if setup.era else TODAY,
        dataset=str(dataset.source or options.images),
        stages=_stages(ordered, records),
        images=tuple(agreements),
        agreement=agreement,
        plain_agreement=agreement_ap(theirs, mine, *ends) if decided else agreement,
        class_counts=_class_counts(resolved, mine),
        categories=dataset.categories,
        tensorflow_metrics=theirs_metrics,
        pytorch_metrics=my_metrics,
        resolved_ap=resolved_metrics.ap if resolved_metrics is not None else None,
        published=published,
        skipped=skipped,
        notes=(*setup.notes, *_engine(setup.options.engine), *dataset.notes, *_notes(ordered, records)),
        pictures=tuple(
            (item.image_id, side_by_side(records[item.image_id].path, by_id[item.image_id].resolved,
                                         by_id[item.image_id].mine, item, dataset.categories,
                                         _truth(setup, item.image_id)))
            for item in worst_first(agreements)[: options.pictures]
        ),
        pairs=_pairs(used),
        weak=sum(int((rows[:, 4] >= WEAKEST).sum()) for side in (theirs, mine) for rows in side.values()),
        rounding=_rounding(used),
        environment=environment(versions),
        image_hashes={image.image_id: image.sha256 for image in ordered if image.sha256 is not None},
        command=options.command,
    )  # fmt: skip


def _stages(ordered: Sequence[ImageParity], records: Mapping[int, ImageRecord]) -> tuple[StageResult, ...]:
    found = []
    for name, unit, items, allowed in STAGES:
        ways = (
            StageDifference.over(
                {records[i.image_id].path.name: i.measures[name][way] for i in ordered if name in i.measures}
            )
            for way in (0, 1)
        )
        found.append(StageResult(name, unit, items, allowed, *ways))
    return tuple(found)


def _metrics(setup: Setup, rows: Mapping[int, Rows]) -> CocoMetrics | None:
    if setup.dataset.annotations is None:
        return None
    results = [
        result for image_id, found in rows.items()
        for result in ImageResult(image_id, found[np.isfinite(found).all(1)]).coco_results()
    ]  # fmt: skip
    return coco_metrics(setup.dataset, results, rows)


def _class_counts(theirs: Mapping[int, Rows], mine: Mapping[int, Rows]) -> dict[int, tuple[int, int]]:
    """Category id -> strong detections of TensorFlow and PyTorch."""
    counts: list[dict[int, int]] = []
    for side in (theirs, mine):
        strong = [rows[rows[:, 4] >= STRONG, 5].astype(int) for rows in side.values()]
        ids, numbers = np.unique(np.concatenate(strong), return_counts=True) if strong else ((), ())
        counts.append(dict(zip(map(int, ids), map(int, numbers), strict=True)))
    return {id_: (counts[0].get(id_, 0), counts[1].get(id_, 0)) for id_ in sorted({*counts[0], *counts[1]})}


def _pairs(used: Sequence[ImageParity]) -> np.ndarray:
    tables = [np.zeros((0, 4), np.float32)]
    for image in used:
        pairs = match(image.resolved, image.mine, image.allowed)
        boxes, scores = pair_differences(image.resolved, image.mine, pairs)
        left, right = [a for a, _ in pairs], [b for _, b in pairs]
        tables.append(np.column_stack((boxes, scores, image.resolved[left, 4], image.mine[right, 4])))
    return np.concatenate(tables)


def _rounding(used: Sequence[ImageParity]) -> OwnRounding:
    known = [image for image in used if image.noise]
    return OwnRounding(
        len(known),
        max((value for image in known for value in image.noise.values()), default=0.0),
        max((value for image in known for value in image.ratios.values()), default=0.0),
        sum(image.own_flips or 0 for image in known),
    )


def _skipped(setup: Setup, ordered: Sequence[ImageParity]) -> tuple[SkippedImage, ...]:
    paths: dict[int, Path] = {image.id: image.path for image in setup.dataset.images}
    listed = [SkippedImage(id_, "", reason) for id_, reason in setup.dataset.bad_images.items()]
    read = [SkippedImage(i.image_id, str(paths[i.image_id]), i.refused) for i in ordered if i.refused is not None]
    return (*listed, *read)


def _engine(name: str | None) -> list[str]:
    if name in (None, "exact"):
        return []
    return [f"PyTorch's network was run by the engine {name}; for a release run parity without --engine."]


def _notes(ordered: Sequence[ImageParity], records: Mapping[int, ImageRecord]) -> list[str]:
    return [f"{records[i.image_id].path.name}: {i.refused}" for i in ordered if i.refused is not None and i.measures]


def _truth(setup: Setup, image_id: int) -> list[Mapping[str, Any]] | None:
    if setup.dataset.annotations is None:
        return None
    return [box for box in setup.dataset.annotations if box["image_id"] == image_id]
