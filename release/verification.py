"""The two proofs of a release: how each is run, and what its record must say so that it need not be run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from effdet_model.nms_profiles import NmsProfile, profile_from_config
from porting.official.obtain import Obtained
from release.evidence import DIFF, PARITY, Expected
from release.expected import PROOF_DTYPE, ReleasedWeights, expected_of_diff, expected_of_parity

if TYPE_CHECKING:
    from release.options import ReleaseOptions
    from verify.diff.options import DiffOptions
    from verify.evaluation.coco import CocoDataset
    from verify.parity.options import ParityOptions
    from verify.parity.result import ParityResult

Report = Callable[[int, int | None], None]
"""Called with (how much is done, how much there is in all; None where it is not known)."""

DRAWN = "shapes, drawn for this"
DRAWN_COUNTS = (8, 16, 32, 64)
"""How many pictures are drawn where the user has none: more, while they are too few to judge."""
_DIFF_IMAGES, _SEED = 2, 0
_ANCHOR_HPARAMS = ("aspect_ratios", "nms_configs")
"""Declared, they say that the checkpoint is not as its family was published."""


@dataclass(frozen=True)
class Subject:
    """One model on its way to a release: checkpoint, weight file, the user's choices, its work folder."""

    found: Obtained
    weights: ReleasedWeights
    options: ReleaseOptions
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """How a verification ended: in one word and in one sentence."""

    outcome: str
    verdict: str


class Verification(Protocol):
    """One of the proofs."""

    kind: str

    def expected(self, subject: Subject, inputs: int) -> Expected:
        """What the record of a run would say now, for a record of an earlier one with so many inputs."""
        ...

    def run(self, subject: Subject, report: Report) -> Outcome:
        """Run it, and write KIND.json, KIND.md and KIND.html into the subject's folder, however it ends."""
        ...


class LayerDiff:
    """Configuration, tensors and layers, in double precision, on pictures and noise."""

    kind = DIFF

    def expected(self, subject: Subject, inputs: int) -> Expected:
        return expected_of_diff(subject.weights.config, self._options(subject))

    def run(self, subject: Subject, report: Report) -> Outcome:
        from verify.diff.run import run_diff
        from verify.report import write_diff_report

        done = 0

        def layer(*what: object) -> None:
            nonlocal done
            done += 1
            report(done, None)

        found, weights = subject.found, subject.weights.path
        result = run_diff(found.path, weights, subject.weights.config.name, self._options(subject), layer)
        result = dataclasses.replace(result, source=found.path.name, weights=weights.name, seconds={})
        write_diff_report(result, subject.folder)
        return Outcome(result.outcome, result.verdict)

    def _options(self, subject: Subject) -> DiffOptions:
        """The user's first pictures, or a drawn one; noise in any case."""
        from verify.diff.options import DiffOptions

        found, options = subject.found, subject.options
        dataset = options.dataset()
        pictures = [image.path for image in dataset.images[:_DIFF_IMAGES]] if dataset else []
        return DiffOptions(
            image_size=options.image_size, images=pictures, noise_seeds=(_SEED,) if pictures else (),
            dtype=PROOF_DTYPE, overrides=found.overrides, family=found.origin.get("family"), hparams=found.declared,
        )  # fmt: skip


class DetectionParity:
    """Both frameworks' detections, official weights by the rules of their day."""

    kind = PARITY

    def expected(self, subject: Subject, inputs: int) -> Expected:
        count = inputs if inputs in DRAWN_COUNTS else DRAWN_COUNTS[0]
        dataset = subject.options.dataset() or _load(_drawn(subject, count))
        return expected_of_parity(dataset, self._profile(subject), subject.found.hparams)

    def run(self, subject: Subject, report: Report) -> Outcome:
        from verify.report.parity import write_parity_report

        result = self._judged(subject, report)
        result = dataclasses.replace(
            result, checkpoint=subject.found.path.name, weights=subject.weights.path.name, seconds={},
            dataset=Path(result.dataset).name if subject.options.has_images else DRAWN,
        )  # fmt: skip
        write_parity_report(result, subject.folder)
        return Outcome(result.outcome, result.verdict)

    def _judged(self, subject: Subject, report: Report) -> ParityResult:
        """On the user's images, or on as many drawn ones as it takes to say something."""
        from verify.parity.run import parity

        if subject.options.has_images:
            return parity(self._options(subject, report))
        for count in DRAWN_COUNTS:
            result = parity(self._options(subject, report, _drawn(subject, count)))
            if result.outcome != "inconclusive":
                break
        return result

    def _options(self, subject: Subject, report: Report, drawn: Path | None = None) -> ParityOptions:
        from verify.parity.options import ParityOptions

        found, options = subject.found, subject.options
        published = bool(found.origin) and not set(_ANCHOR_HPARAMS) & set(found.hparams)
        return ParityOptions(
            found.path, subject.weights.path, subject.weights.config.name, images=drawn or options.images,
            annotations=options.annotations, coco=options.coco, nms=self._nms(subject),
            image_size=options.image_size, as_published=published, family=found.origin.get("family"),
            overrides=found.hparams, progress=report,
        )  # fmt: skip

    def _nms(self, subject: Subject) -> str | None:
        """The profile that the published numbers were made with, where the user says nothing else."""
        found = subject.found
        return None if "nms_configs" in found.hparams else found.origin.get("nms_profile")

    def _profile(self, subject: Subject) -> NmsProfile:
        return profile_from_config(subject.weights.config, self._nms(subject))


def _drawn(subject: Subject, count: int) -> Path:
    """A folder with so many pictures of shapes; the same ones every time."""
    from demo.drawn_images import draw_dataset

    folder = subject.folder / f"drawn-{count}"
    draw_dataset(folder, count)
    return folder / "images"


def _load(folder: Path) -> CocoDataset:
    from verify.evaluation.coco import load_folder

    return load_folder(folder)
