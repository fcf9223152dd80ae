"""What a parity run found, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porting.files import atomic_write
from verify.evaluation.metrics import CocoMetrics
from verify.evaluation.published import AP_TOLERANCE, PublishedVerdict
from verify.evaluation.result import SkippedImage
from verify.parity.matching import AgreementAP, ImageAgreement

AGREEMENT_WANTED = 0.999
"""Smallest agreement AP of a perfect port."""
STRONG_WANTED = 0.999
"""Smallest share of TensorFlow's detections with a score of at least 0.05 that must have a partner."""


@dataclass(frozen=True)
class StageDifference:
    """How far PyTorch's result of one stage is from TensorFlow's, over all images.

    Attributes:
        largest: the largest difference, in the stage's unit; infinite where shapes differ or a value is not finite.
        tolerance: the largest allowed. differing: items beyond it, or without a counterpart, of `items`.
        worst_image: file name of the image where it is largest; None where nothing differs at all.
    """

    largest: float
    tolerance: float
    differing: int
    items: int
    worst_image: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing differs by more than the tolerance."""
        return self.differing == 0 and self.largest <= self.tolerance


@dataclass(frozen=True)
class StageResult:
    """One rung of the ladder.

    Attributes:
        alone: on TensorFlow's own input of this stage; this is judged.
        from_file: at the end of PyTorch's own way from the file to here.
        unit: what the differences are measured in. items: what is counted.
    """

    name: str
    unit: str
    items: str
    alone: StageDifference
    from_file: StageDifference

    @property
    def ok(self) -> bool:
        """Whether the stage, judged alone, is within tolerance."""
        return self.alone.ok


@dataclass(frozen=True)
class ParityResult:
    """TensorFlow and PyTorch on the same images, from files to metrics.

    Attributes:
        nms: the suppression profile, field by field. semantics: whose anchors and suppression these are.
        stages: in the order of the pipeline. images: in the dataset's order.
        agreement: COCO AP with TensorFlow's detections as the truth.
        tensorflow_metrics, pytorch_metrics: None without annotations. published: None where there is no such number.
        pictures: (image id, PNG file's bytes) of the largest disagreements, TensorFlow left, PyTorch right.
        seconds: time by part.
    """

    variant: str
    config: Mapping[str, Any]
    checkpoint: str
    checkpoint_sha256: str
    weights: str
    weights_sha256: str
    variables: str
    image_size: tuple[int, int]
    nms: Mapping[str, Any]
    semantics: str
    dataset: str
    stages: tuple[StageResult, ...]
    images: tuple[ImageAgreement, ...]
    agreement: AgreementAP
    tensorflow_metrics: CocoMetrics | None = None
    pytorch_metrics: CocoMetrics | None = None
    published: PublishedVerdict | None = None
    skipped: tuple[SkippedImage, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: tuple[tuple[int, bytes], ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def born_in(self) -> str | None:
        """The first stage that differs on TensorFlow's own input; None where none does."""
        return next((stage.name for stage in self.stages if not stage.ok), None)

    @property
    def matched_share(self) -> float:
        """Share of TensorFlow's detections that have a partner."""
        total = sum(image.tensorflow for image in self.images)
        return sum(image.matched for image in self.images) / total if total else 1.0

    @property
    def strong_share(self) -> float:
        """The same for detections with a score of at least 0.05."""
        total = sum(image.strong for image in self.images)
        return sum(image.strong_matched for image in self.images) / total if total else 1.0

    @property
    def ap_difference(self) -> float | None:
        """PyTorch's AP minus TensorFlow's, in points; None without annotations."""
        if self.pytorch_metrics is None or self.tensorflow_metrics is None:
            return None
        return 100 * (self.pytorch_metrics.ap - self.tensorflow_metrics.ap)

    @property
    def failures(self) -> tuple[str, ...]:
        """What is not as it must be, in sentences; empty where parity holds."""
        found = [
            f"{stage.name}: {stage.alone.differing} of {stage.alone.items} {stage.items} differ on TensorFlow's own "
            f"input (largest difference {stage.alone.largest:.3g} {stage.unit}, {stage.alone.tolerance:g} allowed)."
            for stage in self.stages
            if not stage.ok
        ]
        if self.agreement.ap < AGREEMENT_WANTED:
            found.append(f"Agreement AP is {self.agreement.ap:.4f}, at least {AGREEMENT_WANTED} wanted.")
        if self.strong_share < STRONG_WANTED:
            found.append(
                f"{self.strong_share:.2%} of TensorFlow's detections with a score of at least 0.05 have a partner, at "
                f"least {STRONG_WANTED:.1%} wanted."
            )
        if self.ap_difference is not None and abs(self.ap_difference) > AP_TOLERANCE:
            found.append(f"AP differs from TensorFlow's by {self.ap_difference:+.2f} points, {AP_TOLERANCE} allowed.")
        if self.published is not None and not self.published.passed:
            found.append(f"AP differs from the published one by {self.published.difference:+.2f} points.")
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Whether parity holds."""
        return not self.failures

    @property
    def verdict(self) -> str:
        """One sentence: same detections or not, and where they part."""
        count = len(self.images)
        if self.passed:
            return (
                f"Same detections: agreement AP {self.agreement.ap:.3f} on {count} images; "
                f"{self.matched_share:.2%} of TensorFlow's boxes found within 0.1 pixel and 1e-4 in score."
            )
        born = f"born in {self.born_in}" if self.born_in else "no stage differs on its own"
        return f"Not the same detections on {count} images ({born}): {self.failures[0]}"

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON: infinite numbers become the largest float, NaN becomes None."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "failures": list(self.failures),
            "agreement_ap": self.agreement.ap,
            "agreement": dataclasses.asdict(self.agreement),
            "matched_share": self.matched_share,
            "strong_matched_share": self.strong_share,
            "born_in": self.born_in,
            "weights_sha256": self.weights_sha256,
            "checkpoint_sha256": self.checkpoint_sha256,
            "variant": self.variant,
            "checkpoint": self.checkpoint,
            "weights": self.weights,
            "variables": self.variables,
            "image_size": list(self.image_size),
            "nms": dict(self.nms),
            "semantics": self.semantics,
            "dataset": self.dataset,
            "stages": [
                {
                    "name": stage.name,
                    "ok": stage.ok,
                    "unit": stage.unit,
                    "items": stage.items,
                    "alone": _stage(stage.alone),
                    "from_file": _stage(stage.from_file),
                }
                for stage in self.stages
            ],
            "tensorflow": _metrics(self.tensorflow_metrics),
            "pytorch": _metrics(self.pytorch_metrics),
            "ap_difference": self.ap_difference,
            "published": self.published.to_json() if self.published else None,
            "images": [dataclasses.asdict(image) for image in self.images],
            "skipped": [dataclasses.asdict(image) for image in self.skipped],
            "notes": list(self.notes),
            "environment": dict(self.environment),
            "seconds": dict(self.seconds),
            "config": dict(self.config),
        }

    def write_json(self, path: Path) -> None:
        """Write `parity.json`, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _stage(difference: StageDifference) -> dict[str, Any]:
    plain = {**dataclasses.asdict(difference), "ok": difference.ok}
    if not math.isfinite(difference.largest):
        plain["largest"] = 1.7976931348623157e308
    return plain


def _metrics(metrics: CocoMetrics | None) -> dict[str, Any] | None:
    return None if metrics is None else {**metrics.values, "per_class": dict(metrics.per_class)}
