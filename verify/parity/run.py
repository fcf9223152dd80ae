"""Parity: TensorFlow and PyTorch from the same files to detections and metrics, and stage by stage.

Both work at once: while PyTorch and the comparison are busy with one batch, TensorFlow has the next one.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet_model.errors import InputError, unknown_name
from effdet_model.labels import resolve_label_map
from porting.files import make_folder
from verify.evaluation.coco import (
    CocoDataset,
    ImageRecord,
    check_categories,
    load_annotated,
    load_coco_layout,
    load_folder,
)
from verify.evaluation.metrics import check_evaluator
from verify.evaluation.published import Era, era_of
from verify.parity.evidence import parity_evidence
from verify.parity.image import ImageParity
from verify.parity.options import ParityOptions
from verify.parity.result import ParityResult
from verify.parity.setup import Setup, check_official, prepare
from verify.parity.store import WORK_FILE, ParityStore
from verify.parity.summary import summarize
from verify.reference.process import ReferenceProcess

if TYPE_CHECKING:
    from effdet_model.efficientdet import EfficientDet
    from effdet_model.nms_profiles import NmsProfile
    from porting.checkpoint.sources import Source
    from verify.parity.port import ReadImage
    from verify.parity.stages import Conversation, Request

__all__ = ["ParityOptions", "parity"]

FIRST_IMAGES = 2
"""Of so many images TensorFlow's float64 run is made in any case, to know its own rounding."""


def parity(options: ParityOptions) -> ParityResult:
    """Run both frameworks over the same images and compare everything.

    Raises:
        InputError: an option, the checkpoint, the weights, the dataset or an image is not as it must be, or
            TensorFlow is missing or fails.
    """
    started = time.perf_counter()
    check_evaluator()
    if options.resume and options.work is None:
        raise InputError("--resume: expected --report DIR (the work file lies in it), found none.")
    if options.threads is not None and options.threads < 1:
        raise InputError(f"--threads: expected at least 1, found {options.threads}.")
    from effdet_model.engines import EXACT, engine_names
    from verify.parity.port import thread_shares

    if options.engine is not None and options.engine not in engine_names():
        raise unknown_name("engine", options.engine, engine_names())
    of_tensorflow, of_pytorch = thread_shares(options.threads)
    with ReferenceProcess("pipeline", threads=of_tensorflow) as reference, _torch_threads(of_pytorch):
        from effdet_model.weights import read_metadata
        from porting.checkpoint.sources import open_source

        dataset = _dataset(options)
        metadata = read_metadata(options.weights)
        era = _era(options, metadata)
        model = _model(options, era)
        profile = _profile(options, era, model)
        dataset = check_categories(
            dataset, model.config.num_classes, options.skip_bad_images,
            resolve_label_map(model.config.label_map, model.config.num_classes),
        )
        with open_source(options.checkpoint) as source:
            source.start_hashing()
            setup = prepare(options, source, dataset, model, profile, metadata, era)
            reference.open(
                setup.reference_config, lambda name: source.read(name, setup.kind), "float32", source.backbone_scope,
                profile=dataclasses.asdict(profile),
            )
            with _store(setup, source) as store:
                _Run(setup, reference, store).all_images()
                result = summarize(setup, list(store.images.values()), source.sha256(), reference.versions)
                store.remove()
        seconds = {**result.seconds, "total": time.perf_counter() - started}
        evidence = parity_evidence(setup, result) if options.engine in (None, EXACT) else None
        return dataclasses.replace(result, seconds=seconds, evidence=evidence)


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _store(setup: Setup, source: Source) -> ParityStore:
    """The work file, if there is a folder for it, and what an earlier run left there."""
    options = setup.options
    path = None
    if options.work is not None:
        make_folder(options.work, "report folder")
        path = Path(options.work) / WORK_FILE
    settings = setup.settings(source.sha256()) if path is not None else {}
    store = ParityStore(path, settings, options.resume)
    store.check_contents(setup.dataset.images)
    return store


def _dataset(options: ParityOptions) -> CocoDataset:
    dataset = dataset_of(
        options.coco, options.images, options.annotations, options.split, options.skip_bad_images
    )
    return dataset if options.limit is None else dataset.first(options.limit)


def dataset_of(
    coco: str | Path | None, images: str | Path | None, annotations: str | Path | None, split: str = "val2017",
    skip_bad: bool = False,
) -> CocoDataset:
    """The images that --coco, or --images and perhaps --annotations, name.

    Raises:
        InputError: both or neither are named, or they cannot be used.
    """
    if (coco is None) == (images is None):
        raise InputError("dataset: expected either --coco or --images, found both or neither; name one.")
    if coco is not None:
        return load_coco_layout(coco, split, skip_bad)
    assert images is not None
    if annotations is not None:
        return load_annotated(images, annotations, skip_bad=skip_bad)
    return load_folder(images)


def _era(options: ParityOptions, metadata: Mapping[str, Any] | None) -> Era | None:
    if not options.as_published:
        return None
    return era_of(str(options.variant or (metadata or {}).get("variant")), metadata, options.family)


def _model(options: ParityOptions, era: Era | None) -> EfficientDet:
    from effdet_model.factory import create_model

    overrides = {**options.overrides, **(era.overrides if era else {})}
    size = options.image_size or overrides.get("image_size")
    overrides.pop("image_size", None)
    model = create_model(options.variant, image_size=size, weights=options.weights, **overrides)
    check_official(model)
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
    """All images of one run; conversations with TensorFlow go on while others start."""

    def __init__(self, setup: Setup, reference: ReferenceProcess, store: ParityStore) -> None:
        from verify.parity.port import PortSide
        from verify.parity.stages import Ladder

        self.setup, self.reference, self.store = setup, reference, store
        self.port = PortSide(setup.model, setup.profile, threads=1, engine=setup.options.engine)
        self.ladder = Ladder(self.port)
        self.answers: collections.deque[Callable[[dict[str, np.ndarray]], None]] = collections.deque()
        self.finished: list[ImageParity] = []

    def all_images(self) -> None:
        """Every image of the dataset that is not in the store yet; all of them are, when this returns."""
        images = self.setup.dataset.images
        first = images[:FIRST_IMAGES]
        others = [image for image in images[FIRST_IMAGES:] if image.id not in self.store.images]
        size = self.port.batch_size
        groups = [[image for image in first if image.id not in self.store.images]]
        groups += [others[start : start + size] for start in range(0, len(others), size)]
        self._advance()
        arrived = self._ask_images(groups[0])
        for number, batch in enumerate(self.port.read(groups)):
            coming = self._ask_images(groups[number + 1]) if 0 < number < len(groups) - 1 else []
            self._judge(batch, arrived)
            if number == 0:
                self._settle()
                self.ladder.learn([self.store.images[image.id] for image in first])
                coming = self._ask_images(groups[1]) if len(groups) > 1 else []
            arrived = coming
            self._keep()
        self._settle()
        if all(image.refused is not None for image in self.store.images.values()):
            reasons = [image.refused for image in self.store.images.values()]
            reason = (reasons or list(self.setup.dataset.bad_images.values()) or ["none"])[0]
            raise InputError(f"dataset: expected at least one image that can be used; first reason: {reason}")

    def _ask_images(self, records: Sequence[ImageRecord]) -> list[dict[str, np.ndarray]]:
        """Let TensorFlow begin with a batch; the list is filled when its results have come."""
        results: list[dict[str, np.ndarray]] = []
        if not records:
            return results

        def sort(answer: dict[str, np.ndarray]) -> None:
            results.extend({} for _ in records)
            for name, array in answer.items():
                position, _, stage = name.partition("/")
                results[int(position)][stage] = array

        self._ask(({"type": "images", "paths": [str(record.path.resolve()) for record in records]}, None), sort)
        return results

    def _ask(
        self, request: Request | tuple[dict[str, Any], None], then: Callable[[dict[str, np.ndarray]], None]
    ) -> None:
        self.reference.submit(*request)
        self.answers.append(then)

    def _listen(self) -> None:
        """Wait for the oldest answer, and go on with what needs it."""
        then = self.answers.popleft()
        then({layer.name: layer.output for layer in self.reference.collect()})

    def _settle(self) -> None:
        while self.answers:
            self._listen()
        self._keep()

    def _judge(self, batch: Sequence[ReadImage], arrived: list[dict[str, np.ndarray]]) -> None:
        """Run PyTorch on a batch and hold it against TensorFlow's results of the same images."""
        usable = [image for image in batch if image.input is not None]
        outputs = self.port.outputs([image.input for image in usable if image.input is not None])
        own = {image.record.id: out for image, out in zip(usable, outputs, strict=True)}
        while batch and not arrived:
            self._listen()
        for image, theirs in zip(batch, arrived, strict=True):
            if image.refused is not None and "refused" in theirs and not self.setup.options.skip_bad_images:
                raise InputError(f"image id {image.record.id}: {image.refused} Or use --skip-bad-images.")
            self._go_on(self.ladder.judge(image, own.get(image.record.id), theirs), None)

    def _go_on(self, conversation: Conversation, answer: dict[str, np.ndarray] | None) -> None:
        try:
            request = next(conversation) if answer is None else conversation.send(answer)
        except StopIteration as end:
            self.finished.append(end.value)
            return
        self._ask(request, lambda found: self._go_on(conversation, found))

    def _keep(self) -> None:
        """Put what is finished on disk."""
        self.store.append(self.finished)
        self.finished = []
        self._advance()

    def _advance(self) -> None:
        if self.setup.options.progress:
            self.setup.options.progress(len(self.store.images), len(self.setup.dataset.images))
