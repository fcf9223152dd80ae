"""Two sides' steps, value by value: equal in float64, or as far apart in float32 as rounding puts them."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from training.proof.result import ABSENT, Compared
from training.proof.trace import Array, StepTrace
from verify.diff.comparison import FLOOR_MAX, MULTIPLE, compare
from verify.diff.result import Difference

TOLERANCE = 1e-9
"""Of a tensor's largest difference in float64, relative to its largest value."""
RATE_TOLERANCE, BOX_TOLERANCE = 1e-6, 1e-5
"""Of learning rates (relative) and of box targets (absolute), which both sides compute in float32."""
_ROUNDINGS = 64
"""A gradient smaller than so many units of rounding of the largest one counts as zero, and so does what it moves:
biases before batch norms have no gradient, but for rounding."""

_STATISTICS_SHARE = 0.01
"""Of a batch in moving statistics. The mean of a linear map of what a batch norm centred is zero, but for rounding."""

_TENSORS = {
    "gradient": "gradients", "parameter": "parameters", "statistic": "statistics", "average": "averages",
}  # fmt: skip


def compare_steps(
    reference: Sequence[StepTrace], port: Sequence[StepTrace], single: Sequence[StepTrace] | None = None,
    clip_norm: float = math.inf,
) -> list[Compared]:
    """All rows, in the order in which one value leads to the next.

    Args:
        reference: in float64. port: in float64; in float32 where `single` is given.
        single: the reference in float32. Then the port may be `MULTIPLE` times as far from the reference as it is, or
            as its median tensor of the kind is; after the first step alone, since each step multiplies what was
            rounded.
        clip_norm: what gradients were clipped to.
    """
    rows: list[Compared] = []
    last = len(reference) - 1
    largest = max((_peak(value) for value in reference[0].gradients.values()), default=0.0)
    for place, (theirs, own) in enumerate(zip(reference, port, strict=True)):
        step = place + 1
        rows += _inputs(step, theirs, own)
        if single is not None and place > 0:
            continue
        other = single[place] if single is not None else None
        rows += _losses(step, theirs, own, other)
        kinds = [kind for kind in _TENSORS if place in (0, last) and (kind != "gradient" or place == 0)]
        rates = sum(trace.rate for trace in reference[:step])
        moving = rates * min(largest, clip_norm)
        counted = _STATISTICS_SHARE * step * max((_peak(value) for value in theirs.statistics.values()), default=0.0)
        for kind in kinds:
            first, second, third = (getattr(side, _TENSORS[kind]) if side else {} for side in (theirs, own, other))
            zero = {"gradient": largest, "statistic": counted, "average": max(moving, counted)}.get(kind, moving)
            rows += _tensors(kind, step, first, second, third if other else None, zero)
    return rows


def _inputs(step: int, theirs: StepTrace, own: StepTrace) -> list[Compared]:
    found = [
        Compared("rate", step, "learning rate", compare(_scalar(theirs.rate), _scalar(own.rate), RATE_TOLERANCE)),
        Compared("target", step, "class targets", compare(theirs.class_targets, own.class_targets, 0.0)),
        Compared("target", step, "positives", compare(theirs.positives, own.positives, 0.0)),
    ]
    boxes = compare(theirs.box_targets, own.box_targets, BOX_TOLERANCE)
    return [*found, Compared("target", step, "box targets", _relative_to(boxes, max(1.0, boxes.reference_max)))]


def _losses(step: int, theirs: StepTrace, own: StepTrace, other: StepTrace | None) -> list[Compared]:
    def terms(side: StepTrace) -> dict[str, Array]:
        return {name: _scalar(value) for name, value in {**side.losses, "gradient norm": side.norm}.items()}

    return _tensors("loss", step, terms(theirs), terms(own), terms(other) if other else None, 0.0)


def _tensors(
    kind: str, step: int, theirs: Mapping[str, Array], own: Mapping[str, Array], other: Mapping[str, Array] | None,
    largest: float,
) -> list[Compared]:
    """Every tensor of a kind; one that a side lacks fails.

    Args:
        largest: roundings of it count as zero.
    """
    only_own = [] if kind == "average" else [name for name in own if name not in theirs]
    missing = [name for name in (*theirs, *only_own) if name not in own or name not in theirs]
    pairs = {name: (theirs[name], own[name]) for name in theirs if name in own}
    precision = np.finfo(np.float32 if other is not None else np.float64).eps
    least = _ROUNDINGS * float(precision) * largest
    if other is None:
        rows = [
            Compared(kind, step, name, _exact(compare(value, found, TOLERANCE), least))
            for name, (value, found) in pairs.items()
        ]
    else:
        rows = _by_rounding(kind, step, pairs, other, least)
    lacking = compare(np.zeros(1), np.full(1, np.nan), 0.0)
    return rows + [
        Compared(kind, step, name, dataclasses.replace(lacking, note=ABSENT.format("port" if name in theirs else
        "reference"))) for name in missing
    ]  # fmt: skip


def _exact(found: Difference, least: float) -> Difference:
    """Differences below `least` are none."""
    return dataclasses.replace(found, max_rel=0.0) if found.max_abs <= least else found


def _by_rounding(
    kind: str, step: int, pairs: Mapping[str, tuple[Array, Array]], other: Mapping[str, Array], least: float
) -> list[Compared]:
    scaled = {}
    for name, (truth, found) in pairs.items():
        own, port = compare(truth, other[name], float("inf")), compare(truth, found, 0.0)
        scale = own.reference_max or 1.0
        scaled[name] = (_relative_to(own, scale), _relative_to(port, scale))
    usual = statistics.median(own.max_rel for own, _ in scaled.values()) if scaled else 0.0
    return [
        Compared(
            kind, step, name,
            dataclasses.replace(
                _exact(port, least), tolerance=MULTIPLE * max(own.max_rel, usual, FLOOR_MAX), own_max_rel=own.max_rel
            ),
        )
        for name, (own, port) in scaled.items()
    ]


def _relative_to(found: Difference, scale: float) -> Difference:
    return dataclasses.replace(found, max_rel=found.max_abs / scale)


def _scalar(value: float) -> np.ndarray:
    return np.asarray([value], np.float64)


def _peak(value: Array) -> float:
    array = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return float(np.abs(array).max(initial=0.0))
