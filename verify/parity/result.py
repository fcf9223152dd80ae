"""What a parity run found, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from porting.files import atomic_write
from verify.evaluation.metrics import CocoMetrics
from verify.evaluation.published import AP_TOLERANCE, PublishedVerdict
from verify.evaluation.result import SkippedImage
from verify.evidence.record import Evidence, Verdict
from verify.evidence.seal import sealed
from verify.parity.image import Measure
from verify.parity.matching import AgreementAP, ImageAgreement
from verify.parity.rounding import MULTIPLE
from verify.reference.configuration.config_check import ConfigDifference

AGREEMENT_WANTED = 0.999
"""Smallest agreement AP of a perfect port."""
LONE_SHARE = 1e-5
"""Share of all detections that may be without a partner: equal scores that the order of additions decides."""
ENOUGH_IMAGES, ENOUGH_STRONG, ENOUGH_WEAK = 2, 10, 100
"""Fewer images than this prove nothing; nor do fewer detections of both sides that are strong (0.05), unless so many
have a score that the official evaluation counts (0.001)."""
_LARGEST_FLOAT = 1.7976931348623157e308

@dataclass(frozen=True)
class StageDifference:
    """How far PyTorch's result of one stage is from TensorFlow's, over all images.

    Attributes:
        largest: the largest difference, in the stage's unit; infinite where shapes differ or a value is not finite.
        used: the largest share of what is allowed, above 1 where something differs.
        differing: items beyond it, or without a counterpart, of `items`.
        worst_image: file name of the image where the share is largest; None where nothing differs at all.
    """

    largest: float
    used: float
    differing: int
    items: int
    worst_image: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing differs by more than what is allowed, but for what the order of additions decides."""
        return self.differing == 0 and self.used <= 1 or 0 < self.differing <= self.items * LONE_SHARE

    @classmethod
    def over(cls, measures: Mapping[str, Measure]) -> StageDifference:
        """The sum of what was found on each image, by file name."""
        worst = max(measures, key=lambda name: (measures[name].used, measures[name].largest), default=None)
        return cls(
            max((measure.largest for measure in measures.values()), default=0.0),
            max((measure.used for measure in measures.values()), default=0.0),
            sum(measure.differing for measure in measures.values()),
            sum(measure.items for measure in measures.values()),
            worst if worst is not None and measures[worst].largest > 0 else None,
        )


@dataclass(frozen=True)
class StageResult:
    """One rung of the ladder; both ways are judged.

    Attributes:
        alone: on TensorFlow's own input of this stage. from_file: at the end of PyTorch's own way from the file.
        unit: what the differences are measured in. items: what is counted. allowed: in words.
    """

    name: str
    unit: str
    items: str
    allowed: str
    alone: StageDifference
    from_file: StageDifference

    @property
    def ok(self) -> bool:
        """Whether the stage is within what is allowed, alone and from the file."""
        return self.alone.ok and self.from_file.ok


@dataclass(frozen=True)
class OwnRounding:
    """What rounding does to TensorFlow itself, on the images whose float64 run was made.

    Attributes:
        images: how many. noise: TensorFlow's float32 from its float64, the largest of a level's largest output.
        ratio: how many times that PyTorch is away from the float64 truth, at most. flips: detections that TensorFlow's
            own two runs do not share.
    """

    images: int
    noise: float
    ratio: float
    flips: int


@dataclass(frozen=True)
class ParityResult:
    """TensorFlow and PyTorch on the same images, from files to metrics.

    Attributes:
        config: the port's. config_differences: of it from the reference's own.
        nms: the suppression profile, field by field. semantics: whose anchors and suppression these are.
        stages: in the order of the pipeline. images: in the dataset's order.
        agreement: COCO AP with TensorFlow's detections as the truth; where rounding decides which of two boxes stands
            for an object, TensorFlow's choice from PyTorch's scores. plain_agreement: without regard to that.
        class_counts: category id -> strong detections of (TensorFlow, PyTorch).
        tensorflow_metrics, pytorch_metrics: None without annotations. resolved_ap: of TensorFlow's detections, chosen
            as in `agreement`. published: None where there is no such number.
        pictures: (image id, PNG file's bytes), TensorFlow left, PyTorch middle, the truth right.
        pairs: float32 [n, 4]: box difference in pixels, score difference, TensorFlow's score, PyTorch's.
        seconds: time by part. command: how to do it again. evidence: the record of what this proves.
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
    plain_agreement: AgreementAP
    tensorflow_metrics: CocoMetrics | None
    pytorch_metrics: CocoMetrics | None
    resolved_ap: float | None
    published: PublishedVerdict | None
    skipped: tuple[SkippedImage, ...]
    notes: tuple[str, ...]
    pictures: tuple[tuple[int, bytes], ...]
    environment: Mapping[str, Any]
    weak: int
    rounding: OwnRounding
    reference_config: Mapping[str, Any] = field(default_factory=dict)
    config_differences: tuple[ConfigDifference, ...] = ()
    class_counts: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    categories: Mapping[int, str] = field(default_factory=dict)
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    seconds: Mapping[str, float] = field(default_factory=dict)
    image_hashes: Mapping[int, str] = field(default_factory=dict)
    command: str = ""
    evidence: Evidence | None = None

    @property
    def born_in(self) -> str | None:
        """The first stage that differs on TensorFlow's own input, else the first that differs from the file."""
        alone = (stage.name for stage in self.stages if not stage.alone.ok)
        from_file = (stage.name for stage in self.stages if not stage.from_file.ok)
        return next(alone, None) or next(from_file, None)

    @property
    def detections(self) -> int:
        """Of both sides."""
        return sum(image.tensorflow + image.pytorch for image in self.images)

    @property
    def unmatched(self) -> int:
        """Detections without a partner, on both sides."""
        return sum(image.unmatched for image in self.images)

    @property
    def matched_share(self) -> float:
        """Share of both sides' detections that have a partner; 1 where there is none."""
        return 1 - self.unmatched / self.detections if self.detections else 1.0

    @property
    def strong(self) -> int:
        """Detections of both sides with a score of at least 0.05."""
        return sum(image.strong for image in self.images)

    @property
    def strong_share(self) -> float:
        """Share of the strong detections of both sides that have a partner; 1 where there is none."""
        return sum(image.strong_matched for image in self.images) / self.strong if self.strong else 1.0

    @property
    def by_rounding(self) -> int:
        """Detections that rounding decides, on both sides."""
        return sum(image.by_rounding for image in self.images)

    @property
    def ap_difference(self) -> float | None:
        """PyTorch's AP minus TensorFlow's, in points; None without annotations."""
        if self.pytorch_metrics is None or self.tensorflow_metrics is None:
            return None
        return 100 * (self.pytorch_metrics.ap - self.tensorflow_metrics.ap)

    @property
    def failures(self) -> tuple[str, ...]:
        """What is not as it must be, in sentences; empty where nothing was found."""
        found = [
            f"Configuration: {difference}. {difference.remedy}".strip()
            for difference in self.config_differences
            if not difference.declared
        ]
        for stage in self.stages:
            for way, difference in (
                ("on TensorFlow's own input", stage.alone), ("on the way from the file", stage.from_file),
            ):
                if not difference.ok:
                    found.append(
                        f"{stage.name}: {difference.differing} of {difference.items} {stage.items} differ {way} "
                        f"(largest difference {difference.largest:.3g} {stage.unit}; allowed: {stage.allowed})."
                    )
        if self.unmatched > self.detections * LONE_SHARE:
            lone = [sum(len(getattr(image, f"unmatched_{side}")) for image in self.images)
                    for side in ("tensorflow", "pytorch")]
            found.append(
                f"{lone[0]} detections of TensorFlow and {lone[1]} of PyTorch have no partner on the other side."
            )
        uneven = [id_ for id_, (theirs, mine) in self.class_counts.items() if theirs != mine]
        if uneven and self.unmatched > self.detections * LONE_SHARE:
            shown = "; ".join(
                f"{self.categories.get(id_, id_)}: TensorFlow {self.class_counts[id_][0]}, PyTorch "
                f"{self.class_counts[id_][1]}" for id_ in uneven[:5]
            )
            found.append(f"Strong detections of {len(uneven)} categories differ in number ({shown}).")
        if self.agreement.ap < AGREEMENT_WANTED and self.agreement.truths:
            found.append(f"Agreement AP is {self.agreement.ap:.4f}, at least {AGREEMENT_WANTED} wanted.")
        if self._ap_beyond is not None:
            found.append(f"AP differs from TensorFlow's by {self._ap_beyond:+.2f} points, {AP_TOLERANCE} allowed.")
        if self.published is not None and not self.published.passed:
            found.append(f"AP differs from the published one by {self.published.difference:+.2f} points.")
        return tuple(found)

    @property
    def _ap_beyond(self) -> float | None:
        """The difference of the APs where it is too large, what rounding decides aside."""
        if self.ap_difference is None or abs(self.ap_difference) <= AP_TOLERANCE:
            return None
        assert self.pytorch_metrics is not None
        resolved = self.ap_difference
        if self.resolved_ap is not None:
            resolved = 100 * (self.pytorch_metrics.ap - self.resolved_ap)
        return self.ap_difference if abs(resolved) > AP_TOLERANCE else None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why nothing can be said although nothing differs, each with what to do; empty where enough was compared."""
        found = []
        if len(self.images) < ENOUGH_IMAGES:
            found.append(
                f"{len(self.images)} image was compared, at least {ENOUGH_IMAGES} are needed; name a folder with more."
            )
        if self.strong < ENOUGH_STRONG and self.weak < ENOUGH_WEAK:
            found.append(
                f"Both sides together have {self.strong} detections with a score of at least 0.05 and {self.weak} "
                f"of at least 0.001, {ENOUGH_STRONG} or {ENOUGH_WEAK} are needed; name images of what the model was "
                "trained on, or the --image-size that it was trained at."
            )
        return tuple(found)

    @property
    def outcome(self) -> Verdict:
        """Whether parity holds, does not, or too little was compared to say."""
        if self.failures:
            return "failed"
        return "inconclusive" if self.doubts else "passed"

    @property
    def passed(self) -> bool:
        """Whether parity holds."""
        return self.outcome == "passed"

    @property
    def verdict(self) -> str:
        """One sentence: same detections or not, and where they part."""
        count = f"{len(self.images)} image{'' if len(self.images) == 1 else 's'}"
        if self.outcome == "failed":
            if self.born_in is None and any(not item.declared for item in self.config_differences):
                return f"Not the same configuration ({count}): {self.failures[0]}"
            born = f"born in {self.born_in}" if self.born_in else "no stage differs on its own"
            return f"Not the same detections on {count} ({born}): {self.failures[0]}"
        if self.outcome == "inconclusive":
            return f"Inconclusive: nothing differs, but too little was compared. {self.doubts[0]}"
        rounding = ""
        if self.by_rounding:
            rounding = (
                f" Of these, {self.by_rounding} are decided by rounding: TensorFlow's own suppression chooses the same "
                "from PyTorch's scores."
            )
        return (
            f"Same detections: agreement AP {self.agreement.ap:.3f} on {count}; {self.detections - self.unmatched} of "
            f"{self.detections} boxes of both frameworks have their partner.{rounding}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON: infinite numbers become the largest float, NaN becomes None."""
        plain = {
            "passed": self.passed,
            "outcome": self.outcome,
            "verdict": self.verdict,
            "failures": list(self.failures),
            "doubts": list(self.doubts),
            "agreement_ap": self.agreement.ap,
            "agreement": dataclasses.asdict(self.agreement),
            "plain_agreement_ap": self.plain_agreement.ap,
            "matched_share": self.matched_share,
            "strong_matched_share": self.strong_share,
            "detections": self.detections,
            "strong_detections": self.strong,
            "unmatched_detections": self.unmatched,
            "decided_by_rounding": self.by_rounding,
            "rounding": {**dataclasses.asdict(self.rounding), "allowed": MULTIPLE},
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
            "config_differences": [dataclasses.asdict(difference) for difference in self.config_differences],
            "stages": [
                {
                    "name": stage.name, "ok": stage.ok, "unit": stage.unit, "items": stage.items,
                    "allowed": stage.allowed, "alone": _stage(stage.alone), "from_file": _stage(stage.from_file),
                }
                for stage in self.stages
            ],
            "tensorflow": _metrics(self.tensorflow_metrics),
            "pytorch": _metrics(self.pytorch_metrics),
            "ap_difference": self.ap_difference,
            "class_counts": {str(id_): list(counts) for id_, counts in self.class_counts.items()},
            "published": self.published.to_json() if self.published else None,
            "images": [
                {**dataclasses.asdict(image), "sha256": self.image_hashes.get(image.image_id)} for image in self.images
            ],
            "skipped": [dataclasses.asdict(image) for image in self.skipped],
            "notes": list(self.notes),
            "environment": dict(self.environment),
            "seconds": dict(self.seconds),
            "config": dict(self.config),
            "reference_config": dict(self.reference_config),
            "command": self.command,
        }  # fmt: skip
        return sealed({key: finite(value) for key, value in plain.items()}, self.evidence, self.outcome)

    def write_json(self, path: Path) -> None:
        """Write `parity.json`, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """Plain data without infinities and NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(_LARGEST_FLOAT, value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _stage(difference: StageDifference) -> dict[str, Any]:
    return {**dataclasses.asdict(difference), "ok": difference.ok}


def _metrics(metrics: CocoMetrics | None) -> dict[str, Any] | None:
    return None if metrics is None else {**metrics.values, "per_class": dict(metrics.per_class)}
