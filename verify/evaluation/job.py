"""What an evaluation is to do: everything that can be checked before the first image is read."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effdet_model.config import EfficientDetConfig
from effdet_model.efficientdet import EfficientDet
from effdet_model.engines import EXACT, default_engine, engine_names
from effdet_model.errors import InputError, unknown_name
from effdet_model.labels import resolve_label_map
from effdet_model.nms_profiles import NmsProfile
from effdet_model.weights import metadata_path, read_metadata
from porting.files import atomic_write, make_folder
from porting.version import tool_version
from porting.weights.files import file_sha256
from verify.evaluation.coco import CocoDataset, check_categories, load_annotated, load_coco_layout
from verify.evaluation.metrics import EVALUATORS, check_evaluator
from verify.evaluation.model_settings import prepare_model
from verify.evaluation.options import EvaluateOptions
from verify.evaluation.options import Progress as Progress
from verify.evaluation.published import Era, era_of
from verify.evaluation.ranks import Ranks

WORK_SUFFIX = ".work.jsonl"


@dataclass(frozen=True)
class Job:
    """Everything that was checked before the first image is read."""

    options: EvaluateOptions
    model: EfficientDet
    profile: NmsProfile
    dataset: CocoDataset
    era: Era | None
    metadata: Mapping[str, Any] | None
    weights_sha256: str
    device: torch.device
    detections: Path | None
    server_name: str | None

    @property
    def config(self) -> EfficientDetConfig:
        """Of the model."""
        return self.model.config

    @property
    def channels_last(self) -> bool:
        """Whether images and weights are NHWC in memory."""
        chosen = self.options.channels_last
        return self.device.type == "cpu" if chosen is None else chosen

    @functools.cached_property
    def engine(self) -> str:
        """What runs the network: the user's choice, or the model's default."""
        return "compile" if self.options.compile else self.options.engine or default_engine(self.model)

    @property
    def settings(self) -> dict[str, Any]:
        """What the detections depend on; not threads, batch size and processes, which change the last bits at most.

        The contents of the images stand beside each image's detections.
        """
        return {
            "weights_sha256": self.weights_sha256,
            "config": self.config.to_dict(),
            "nms": dataclasses.asdict(self.profile),
            "folder": str(self.dataset.folder.resolve()) if self.dataset.folder else None,
            "images": self.dataset.image_list_sha256,
            "engine": self.engine,
            "device": self.device.type,
            "compile": self.options.compile,
            "amp": self.options.amp,
            "channels_last": self.channels_last,
            "skip_bad_images": self.options.skip_bad_images,
            "tool": tool_version(),
        }

    @property
    def config_sha256(self) -> str:
        """SHA-256 of the model's configuration, as JSON with sorted keys."""
        text = json.dumps(self.config.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def work_path(self, rank: int) -> Path | None:
        """Where a process keeps its results while it runs; None where nothing is written at all."""
        beside = self.detections or self.options.metrics
        if beside is None:
            return None
        path = Path(beside)
        return path.with_name(f"{path.name}{f'.rank{rank}' if rank else ''}{WORK_SUFFIX}")

    def work_files(self) -> list[Path]:
        """All work files of this output, also those that a run with more processes left."""
        first = self.work_path(0)
        if first is None:
            return []
        name = first.name.removesuffix(WORK_SUFFIX)
        return sorted(
            path
            for path in first.parent.iterdir()
            if path == first or (path.name.startswith(f"{name}.rank") and path.name.endswith(WORK_SUFFIX))
        )


def prepare(options: EvaluateOptions, rank: Ranks) -> Job:
    """Check everything that can be checked before work begins; load dataset and model.

    Raises:
        InputError: an option, the weights or the dataset is not as it must be.
    """
    if options.evaluator not in EVALUATORS:
        raise unknown_name("evaluator", options.evaluator, EVALUATORS)
    if options.engine is not None and options.engine not in engine_names():
        raise unknown_name("engine", options.engine, engine_names())
    if options.compile and options.engine not in (None, "compile"):
        raise InputError(f"--compile: expected no other --engine, found {options.engine}; leave one of them out.")
    if options.batch_size < 1 or options.workers < 0:
        raise InputError(
            f"--batch-size and --workers: expected at least 1 and 0, found {options.batch_size} and {options.workers}."
        )
    dataset = _dataset(options)
    if dataset.annotations is not None:
        check_evaluator(options.evaluator)
    metadata = read_metadata(options.weights)
    overrides = dict(options.overrides)
    variant = options.variant or (metadata or {}).get("variant")
    era = era_of(str(variant), metadata, options.family) if options.as_published else None
    if era is not None:
        overrides.update(era.overrides)
    settings = prepare_model(
        options.weights, options.variant, device=_device(options, rank), image_size=options.image_size,
        overrides=overrides, nms=options.nms or (era.profile if era else None),
    )  # fmt: skip
    model = settings.model
    dataset = check_categories(
        dataset, model.config.num_classes, options.skip_bad_images,
        resolve_label_map(model.config.label_map, model.config.num_classes),
    )
    detections, server_name = _output(options, dataset, model.config)
    for path in (detections, options.metrics):
        if path is not None and rank.is_first:
            _check_no_input(Path(path), options)
            _check_writable(Path(path))
    if options.report is not None and rank.is_first:
        make_folder(options.report, "report folder")
        _check_writable(Path(options.report) / "evaluate.html")
    if options.metrics is not None and dataset.annotations is None:
        raise InputError(f"--metrics: expected annotations to measure with, found none in {dataset.source}.")
    if options.resume and detections is None and options.metrics is None:
        raise InputError("--resume: expected --detections or --metrics (the work file lies beside), found neither.")
    job = Job(
        options, model, settings.profile, dataset, era, metadata, file_sha256(Path(options.weights)), settings.device,
        detections, server_name,
    )  # fmt: skip
    if job.channels_last and job.engine == EXACT:
        model.to(memory_format=torch.channels_last)
    return job


def _dataset(options: EvaluateOptions) -> CocoDataset:
    if options.coco is not None and (options.images or options.annotations):
        raise InputError("dataset: expected either --coco, or --images with --annotations, found both.")
    if options.coco is not None:
        dataset = load_coco_layout(options.coco, options.split, options.skip_bad_images)
    elif options.images is not None and options.annotations is not None:
        dataset = load_annotated(options.images, options.annotations, skip_bad=options.skip_bad_images)
    else:
        raise InputError("dataset: expected --coco, or --images with --annotations, found neither; name one.")
    if options.limit is not None:
        dataset = dataset.first(options.limit)
    if not options.skip_bad_images:
        _check_files(dataset)
    return dataset


def _check_files(dataset: CocoDataset) -> None:
    """Refuse images that are not there before the first one is read."""
    missing = [image for image in dataset.images if not image.path.is_file()]
    if missing:
        raise InputError(
            f"dataset {dataset.source}: expected its {len(dataset.images)} images in {dataset.folder}, found no file "
            f"for {len(missing)} of them (the first: id {missing[0].id}, {missing[0].path.name}); check the folder, or "
            "use --skip-bad-images."
        )


def _check_no_input(path: Path, options: EvaluateOptions) -> None:
    """Refuse an output in the place of what is read: d0.json beside d0.pth is its metadata."""
    weights = Path(options.weights)
    for read in (weights, metadata_path(weights), *([Path(options.annotations)] if options.annotations else [])):
        if path.resolve() == read.resolve():
            what = "the metadata of the weights" if read == metadata_path(weights) else "an input of this run"
            raise InputError(f"output {path}: expected a file of its own, found {what}; name another file.")


def _output(
    options: EvaluateOptions, dataset: CocoDataset, config: EfficientDetConfig
) -> tuple[Path | None, str | None]:
    """(detections file, name for the evaluation server); a test split always gives a file."""
    path = Path(options.detections) if options.detections is not None else None
    if not (dataset.split or "").startswith("test"):
        return path, None
    name = f"detections_{dataset.split}_{config.name}_results"
    if path is None:
        return Path(f"{name}.zip"), name
    stem = path.stem
    return path, stem if stem.startswith("detections_") and stem.endswith("_results") else name


def _check_writable(path: Path) -> None:
    class Probe(Exception):
        """Leaves `atomic_write` without writing."""

    with contextlib.suppress(Probe), atomic_write(path):
        raise Probe


def _device(options: EvaluateOptions, rank: Ranks) -> str:
    """The device asked for; processes of one machine take its GPUs in turn."""
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda":
        name = f"cuda:{rank.local_rank % max(1, torch.cuda.device_count())}"
    return name
