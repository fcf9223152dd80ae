"""Parity: TensorFlow and PyTorch from the same files to detections and metrics, and stage by stage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet_model.errors import InputError
from verify.evaluation.coco import (
    CocoDataset,
    ImageRecord,
    check_categories,
    load_annotated,
    load_coco_layout,
    load_folder,
)
from verify.evaluation.metrics import CocoMetrics, check_evaluator, coco_metrics
from verify.evaluation.published import Era, era_of, published_verdict
from verify.evaluation.result import SkippedImage
from verify.evaluation.store import ImageResult
from verify.parity.matching import ImageAgreement, Rows, agree, agreement_ap, worst_first
from verify.parity.result import ParityResult
from verify.reference.process import ReferenceProcess

if TYPE_CHECKING:
    from effdet_model.efficientdet import EfficientDet
    from effdet_model.nms_profiles import NmsProfile
    from porting.checkpoint.sources import Source
    from verify.evaluation.job import Progress
    from verify.parity.stages import Ladder

TODAY = "today's google/automl (anchors by ratio since 2020-09-10)"


@dataclass(frozen=True)
class ParityOptions:
    """What to compare, and how. Paths as given by the user.

    Attributes:
        checkpoint: anything `porting.checkpoint.sources.open_source` opens. weights: .pth or .safetensors.
        variant: may be None where the weights' metadata names it.
        images: a folder; with `annotations`, those of its images that the file lists. coco: a folder in COCO's layout,
            of which `split` is taken, instead.
        nms: name of a suppression profile; None: the published one with `as_published`, else numpy_gaussian.
        image_size: (height, width), one number or text; None: the weights' own.
        as_published: anchors and suppression of the day on which the weights' `family` was published.
        variables: "ema" or "raw"; "auto": what the weights were made of, as their metadata says.
        limit: only the first so many images. pictures: how many of the worst to draw.
        progress: called with (images done, how many there are).
        overrides: config fields, e.g. parsed from --hparams.
    """

    checkpoint: str | Path
    weights: str | Path
    variant: str | None = None
    images: str | Path | None = None
    annotations: str | Path | None = None
    coco: str | Path | None = None
    split: str = "val2017"
    nms: str | None = None
    image_size: int | str | tuple[int, int] | None = None
    as_published: bool = False
    family: str | None = None
    variables: str = "auto"
    limit: int | None = None
    skip_bad_images: bool = False
    pictures: int = 6
    progress: Progress | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


def parity(options: ParityOptions) -> ParityResult:
    """Run both frameworks over the same images and compare everything.

    Raises:
        InputError: an option, the checkpoint, the weights, the dataset or an image is not as it must be, or
            TensorFlow is missing or fails.
    """
    started = time.perf_counter()
    check_evaluator()
    with ReferenceProcess("pipeline") as reference:
        from effdet_model.weights import read_metadata
        from porting.checkpoint.sources import open_source

        dataset = _dataset(options)
        metadata = read_metadata(options.weights)
        era = _era(options, metadata)
        model = _model(options, era)
        profile = _profile(options, era, model)
        dataset = check_categories(dataset, model.config.num_classes, options.skip_bad_images)
        with open_source(options.checkpoint) as source:
            source.start_hashing()
            run = _Run(options, dataset, model, profile, reference)
            run.open(source, metadata)
            run.all_images()
            result = run.result(source, metadata, era)
        return dataclasses.replace(
            result, seconds={**result.seconds, "total": time.perf_counter() - started}
        )


def _dataset(options: ParityOptions) -> CocoDataset:
    if (options.coco is None) == (options.images is None):
        raise InputError("dataset: expected either --coco or --images, found both or neither; name one.")
    if options.coco is not None:
        dataset = load_coco_layout(options.coco, options.split, options.skip_bad_images)
    elif options.annotations is not None:
        assert options.images is not None
        dataset = load_annotated(options.images, options.annotations, skip_bad=options.skip_bad_images)
    else:
        assert options.images is not None
        dataset = load_folder(options.images)
    return dataset if options.limit is None else dataset.first(options.limit)


def _era(options: ParityOptions, metadata: Mapping[str, Any] | None) -> Era | None:
    if not options.as_published:
        return None
    return era_of(str(options.variant or (metadata or {}).get("variant")), metadata, options.family)


def _model(options: ParityOptions, era: Era | None) -> EfficientDet:
    from effdet_model.factory import create_model

    overrides = {**options.overrides, **(era.overrides if era else {})}
    model = create_model(options.variant, image_size=options.image_size, weights=options.weights, **overrides)
    if not model.config.is_official:
        raise InputError(
            f"variant {model.config.name}: expected a model that TensorFlow's EfficientDet has too, found one that "
            "exists in PyTorch only; parity needs both."
        )
    return model


def _profile(options: ParityOptions, era: Era | None, model: EfficientDet) -> NmsProfile:
    from effdet_model.nms_profiles import profile_from_config

    profile = profile_from_config(model.config, options.nms or (era.profile if era else None))
    if profile.family == "torchvision":
        raise InputError(
            f"suppression {profile.name}: expected one that TensorFlow's code has, found PyTorch's own; choose "
            "numpy_..., graph_..., global_... or combined."
        )
    return profile


class _Run:
    """One parity run: what is gathered image after image, and what it adds up to."""

    def __init__(
        self, options: ParityOptions, dataset: CocoDataset, model: EfficientDet, profile: NmsProfile,
        reference: ReferenceProcess,
    ) -> None:  # fmt: skip
        from verify.parity.stages import Ladder

        self.options, self.dataset, self.profile, self.reference = options, dataset, profile, reference
        self.ladder: Ladder = Ladder(model, profile)
        self.config = model.config
        self.kind = "ema"
        self.theirs: dict[int, Rows] = {}
        self.mine: dict[int, Rows] = {}
        self.agreements: list[ImageAgreement] = []
        self.skipped = [SkippedImage(id_, "", reason) for id_, reason in dataset.bad_images.items()]
        self.notes: list[str] = list(dataset.notes)
        self.seconds = {"tensorflow": 0.0, "pytorch": 0.0}

    def open(self, source: Source, metadata: Mapping[str, Any] | None) -> None:
        """Tell TensorFlow's process which model and suppression to run."""
        from verify.reference.pipeline import PROFILE_KEY

        wanted = self.options.variables
        if wanted == "auto":
            wanted = ((metadata or {}).get("source") or {}).get("variables") or "auto"
        self.kind, _ = source.meant(list(source.variables), wanted)  # type: ignore[arg-type]
        kind = self.kind
        config = {**self.config.to_dict(), PROFILE_KEY: dataclasses.asdict(self.profile)}
        self.reference.open(config, lambda name: source.read(name, kind), "float32", source.backbone_scope)

    def all_images(self) -> None:
        """Every image of the dataset."""
        for done, image in enumerate(self.dataset.images, 1):
            self._one_image(image)
            if self.options.progress:
                self.options.progress(done, len(self.dataset.images))
        if not self.agreements:
            reason = self.skipped[0].reason if self.skipped else "none"
            raise InputError(f"dataset: expected at least one image that can be used; first reason: {reason}")

    def _one_image(self, image: ImageRecord) -> None:
        from effdet_model.decoding import decode_image

        started = time.perf_counter()
        pixels: np.ndarray | None = None
        refusal = ""
        try:
            pixels = decode_image(image.path)
        except InputError as error:
            refusal = str(error)
        decoded = time.perf_counter()
        theirs = self._ask(image)
        answered = time.perf_counter()
        if pixels is None or "refused" in theirs:
            self._refused(image, pixels is None, theirs, refusal)
            return
        reference, mine = self.ladder.climb(image.path.name, pixels, theirs)
        self.theirs[image.id], self.mine[image.id] = reference, mine
        self.agreements.append(agree(image, reference, mine))
        self.seconds["tensorflow"] += answered - decoded
        self.seconds["pytorch"] += decoded - started + time.perf_counter() - answered

    def _ask(self, image: ImageRecord) -> dict[str, np.ndarray]:
        path = np.frombuffer(str(image.path.resolve()).encode(), np.uint8)
        return {layer.name: layer.output for layer in self.reference.layers(path)}

    def _refused(self, image: ImageRecord, by_port: bool, theirs: Mapping[str, np.ndarray], reason: str) -> None:
        """An image that a side cannot read: bad where both say so, else a difference in decoding."""
        by_reference = "refused" in theirs
        if by_port and by_reference:
            if not self.options.skip_bad_images:
                raise InputError(f"image id {image.id}: {reason} Or use --skip-bad-images.")
        else:
            self.ladder.refused(image.path.name)
            words = theirs["refused"].tobytes().decode(errors="replace") if by_reference else reason
            reason = f"{'TensorFlow' if by_reference else 'PyTorch'} alone refuses it: {words}"
            self.notes.append(f"{image.path.name}: {reason}")
        self.skipped.append(SkippedImage(image.id, str(image.path), reason))

    def result(self, source: Source, metadata: Mapping[str, Any] | None, era: Era | None) -> ParityResult:
        """All of it together."""
        from porting.weights.files import file_sha256
        from verify.diff.environment import environment
        from verify.parity.pictures import side_by_side

        limit, threshold = self.profile.max_output_size, self.profile.score_threshold
        theirs, mine = self._metrics(self.theirs), self._metrics(self.mine)
        published = None
        if mine is not None:
            published = published_verdict(self.dataset, self.config, self.profile.name, metadata, era, mine.ap)
        records = {image.id: image for image in self.dataset.images}
        worst = worst_first(self.agreements)[: self.options.pictures]
        drawn = tuple(
            (item.image_id, side_by_side(records[item.image_id].path, self.theirs[item.image_id],
                                         self.mine[item.image_id], item, self.dataset.categories))
            for item in worst
        )  # fmt: skip
        return ParityResult(
            variant=self.config.name,
            config=self.config.to_dict(),
            checkpoint=source.label,
            checkpoint_sha256=source.sha256(),
            weights=str(self.options.weights),
            weights_sha256=file_sha256(Path(self.options.weights)),
            variables=self.kind,
            image_size=self.config.image_size,
            nms=dataclasses.asdict(self.profile),
            semantics=f"family {era.family} as published: {era.reason}" if era else TODAY,
            dataset=str(self.dataset.source or self.options.images),
            stages=self.ladder.results(),
            images=tuple(self.agreements),
            agreement=agreement_ap(self.theirs, self.mine, limit, threshold),
            tensorflow_metrics=theirs,
            pytorch_metrics=mine,
            published=published,
            skipped=tuple(self.skipped),
            notes=tuple(self.notes),
            pictures=drawn,
            environment=environment(self.reference.versions),
            seconds=self.seconds,
        )

    def _metrics(self, rows: Mapping[int, Rows]) -> CocoMetrics | None:
        if self.dataset.annotations is None:
            return None
        return coco_metrics(self.dataset, list(_coco_results(rows)), rows)


def _coco_results(rows: Mapping[int, Rows]) -> Iterator[dict[str, Any]]:
    for image_id, found in rows.items():
        yield from ImageResult(image_id, found).coco_results()
