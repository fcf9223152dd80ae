"""What an evaluation found, as plain data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porting.files import atomic_write
from verify.evaluation.findings.analysis import Analysis
from verify.evaluation.findings.examples import Example
from verify.evaluation.metrics import CocoMetrics
from verify.evaluation.published import PublishedVerdict


@dataclass(frozen=True)
class SkippedImage:
    """An image that could not be used, and why. id: in the annotations; None where there are none."""

    id: int | None
    path: str
    reason: str


@dataclass(frozen=True)
class EvaluationResult:
    """Detections and metrics of one model on one dataset.

    Attributes:
        nms: the suppression profile, field by field. image_size: (height, width).
        images: how many were judged. resumed: how many of them an earlier run had done.
        detections: how many, with a score above 0.
        metrics: None for a dataset without annotations.
        published: the published AP beside this one, where there is one.
        seconds: of this run's inference, loading included.
        notes: what to know of these numbers, in sentences.
        images_sha256: of the ids and file hashes of the judged images. annotations_sha256, config_sha256: of the file
            and of the model's configuration. command: what repeats the run.
        analysis, examples: what the page shows; only where a report is asked for. image_names: id -> file name.
    """

    variant: str
    weights: str
    weights_sha256: str
    nms: Mapping[str, Any]
    aspect_ratios: tuple[Any, ...]
    image_size: tuple[int, int]
    dataset: str
    images: int
    resumed: int
    detections: int
    detections_file: str | None
    metrics: CocoMetrics | None
    skipped: tuple[SkippedImage, ...] = ()
    published: PublishedVerdict | None = None
    seconds: float = 0.0
    processes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    images_sha256: str = ""
    annotations_sha256: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    config_sha256: str = ""
    tool: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    analysis: Analysis | None = None
    examples: tuple[Example, ...] = ()
    image_names: Mapping[int, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """False only where the published AP is missed."""
        return self.published is None or self.published.passed

    @property
    def images_per_second(self) -> float:
        """Of this run, from files to detections, over all processes."""
        return (self.images - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data; the 12 COCO metrics stand at the top, by their names."""
        bare = dataclasses.replace(self, metrics=None, published=None, analysis=None, examples=(), image_names={})
        plain = dataclasses.asdict(bare)
        for name in ("metrics", "published", "analysis", "examples", "image_names"):
            del plain[name]
        numbers = dict(self.metrics.values) if self.metrics else {}
        extra = {
            "per_class": dict(self.metrics.per_class) if self.metrics else None,
            "evaluator": self.metrics.evaluator if self.metrics else None,
            "evaluator_notes": list(self.metrics.notes) if self.metrics else [],
            "published": self.published.to_json() if self.published else None,
            "passed": self.passed,
            "images_per_second": self.images_per_second,
        }
        return {**numbers, **extra, **plain}

    def report_json(self) -> dict[str, Any]:
        """`to_json` with all that the page shows: curves, confusion, sizes, classes and every image."""
        curves = self.metrics.curves if self.metrics else None
        classes = self.metrics.classes if self.metrics else {}
        extra: dict[str, Any] = {
            "classes": {name: dataclasses.asdict(found) for name, found in classes.items()},
            "curves": dataclasses.asdict(curves) if curves else None,
            "analysis": dataclasses.asdict(self.analysis) if self.analysis else None,
        }
        for image in (extra["analysis"] or {}).get("images", ()):
            image["file_name"] = self.image_names.get(image["image_id"])
        return {**self.to_json(), **extra}

    def write_json(self, path: Path, with_report: bool = False) -> None:
        """Write `metrics.json`, or with all that the page shows `evaluate.json`, whole or not at all."""
        content = self.report_json() if with_report else self.to_json()
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
