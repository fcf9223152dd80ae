"""From weights and a dataset to detections and COCO metrics: batched, resumable, over one process or many."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from effdet_model.anchors import anchors_from_config
from effdet_model.efficientdet import EfficientDet
from effdet_model.engines import Engine, Outputs, create_engine, worker_threads
from effdet_model.errors import InputError
from effdet_model.nms import postprocess
from effdet_model.nms_profiles import profile_from_config
from porting.files import file_sha256
from porting.version import TOOL, tool_version
from verify.environment import environment
from verify.evaluation.coco import CocoDataset, ImageRecord
from verify.evaluation.findings.analysis import analyse
from verify.evaluation.findings.examples import examples_of
from verify.evaluation.job import Job, prepare
from verify.evaluation.loading import Batch, batches, image_sha256
from verify.evaluation.metrics import coco_metrics
from verify.evaluation.options import EvaluateOptions, command
from verify.evaluation.published import published_verdict
from verify.evaluation.ranks import Ranks, ranks
from verify.evaluation.result import EvaluationResult, SkippedImage
from verify.evaluation.store import (
    DetectionsStore,
    ImageResult,
    detections_to_rows,
    read_work_file,
    write_results,
)


def evaluate(options: EvaluateOptions) -> EvaluationResult | None:
    """Run a model over a dataset; write detections and metrics.

    Started by torchrun, every process takes its share of the batches; the first one writes and returns the result,
    the others return None. The same batches are formed however many processes there are and however often the run
    was resumed, so the detections are the same; to the last bit where torch has the same number of threads (torchrun
    gives each process one unless OMP_NUM_THREADS is set).

    Raises:
        InputError: an option, the weights, the dataset or an image is not as it must be.
    """
    with ranks() as rank:
        job = prepare(options, rank)
        started = time.monotonic()
        with _opened_store(job, rank) as store:
            resumed = _shared_results(store, rank)
            done, total = len(resumed), len(job.dataset.images)
            for results in detect_all(job, rank, set(resumed)):
                store.append(results)
                done = min(done + len(results) * rank.world, total)
                if options.progress and rank.is_first:
                    options.progress(done, total)
            plain = rank.gather([result.to_plain() for result in store.results.values()])
            if not rank.is_first:
                rank.wait()
                store.remove()
                return None
            store.adopt(ImageResult.from_plain(item) for part in plain for item in part)
            result = _finish(job, store, len(resumed), time.monotonic() - started, rank)
            rank.wait()
            store.remove()
            for path in job.work_files():
                path.unlink(missing_ok=True)
            return result


def _opened_store(job: Job, rank: Ranks) -> DetectionsStore:
    """This process' work file; with the results of all work files there are, where the run is resumed."""
    mine = job.work_path(rank.rank)
    found: list[ImageResult] = []
    if job.options.resume:
        for path in job.work_files():
            found += read_work_file(path, job.settings)
        _check_contents(job, found[rank.rank :: rank.world])
    rank.wait()
    if not job.options.resume and rank.is_first:
        for path in job.work_files():
            path.unlink(missing_ok=True)
    rank.wait()
    store = DetectionsStore(mine, job.settings, job.options.resume)
    store.adopt(found)
    return store


def _check_contents(job: Job, done: Sequence[ImageResult]) -> None:
    """Refuse to go on where an image is no longer the one whose detections are at hand."""
    paths = {image.id: image.path for image in job.dataset.images}
    with ThreadPoolExecutor(max(1, job.options.workers)) as pool:
        now = pool.map(lambda result: image_sha256(paths[result.image_id]), done)
        changed = [result for result, sha256 in zip(done, now, strict=True) if result.sha256 != sha256]
    if changed:
        first = changed[0]
        raise InputError(
            f"resume: expected the images that the earlier run read, found {len(changed)} of {len(done)} with other "
            f"contents (the first: id {first.image_id}, {paths[first.image_id]}); put them back, or leave --resume out "
            "to start anew."
        )


def _shared_results(store: DetectionsStore, rank: Ranks) -> list[int]:
    """Ids of the images that any process has results of."""
    return sorted({image_id for ids in rank.gather(list(store.results)) for image_id in ids})


def detect_all(job: Job, rank: Ranks, done: set[int]) -> Iterator[list[ImageResult]]:
    """This process' batches, without the images that are done."""
    images, size = job.dataset.images, job.options.batch_size
    groups: list[Sequence[ImageRecord]] = [images[start : start + size] for start in range(0, len(images), size)]
    mine = [[image for image in group if image.id not in done] for group in groups[rank.rank :: rank.world]]
    loaded = batches([g for g in mine if g], job.config, job.options.workers, job.channels_last)
    anchors = torch.from_numpy(anchors_from_config(job.config)).to(job.device)
    engine = create_engine(
        job.engine, job.model, weights=job.options.weights, batch=size, channels_last=job.channels_last
    )
    behind: Future[list[ImageResult]] | None = None
    suppression = worker_threads(1, 1)  # of one batch, while the next one is in the network
    with _exact_float32():
        for batch in loaded:
            if batch.bad and not job.options.skip_bad_images:
                record, reason, _ = batch.bad[0]
                raise InputError(f"image id {record.id}: {reason} Or use --skip-bad-images.")
            skipped = [ImageResult.skipped(record.id, reason, sha256) for record, reason, sha256 in batch.bad]
            outputs = _forward(job, engine, batch.images) if batch.records else ([], [])
            before, behind = behind, suppression.submit(_suppressed, job, batch, anchors, outputs, skipped)
            if before is not None:
                yield before.result()
    if behind is not None:
        yield behind.result()


def _suppressed(
    job: Job, batch: Batch, anchors: Tensor, outputs: Outputs, skipped: list[ImageResult]
) -> list[ImageResult]:
    if not batch.records:
        return skipped
    class_outputs, box_outputs = outputs
    with torch.inference_mode():
        found = postprocess(
            job.profile, class_outputs, box_outputs, anchors, job.config.num_classes,
            batch.scales, job.config.image_size, batch.sizes,
        )  # fmt: skip
    return [
        ImageResult(record.id, detections_to_rows(detections), size, None, sha256)
        for record, detections, size, sha256 in zip(batch.records, found, batch.sizes, batch.hashes, strict=True)
    ] + skipped


def _forward(job: Job, engine: Engine, images: Tensor) -> Outputs:
    if not job.options.amp:
        return engine(images)
    dtype = torch.bfloat16 if job.device.type == "cpu" else torch.float16
    with torch.autocast(job.device.type, dtype):
        class_outputs, box_outputs = engine(images)
    return [level.float() for level in class_outputs], [level.float() for level in box_outputs]


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """float32 is float32 on a GPU too (cuDNN would round the inputs of convolutions to TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _finish(job: Job, store: DetectionsStore, resumed: int, seconds: float, rank: Ranks) -> EvaluationResult:
    """Write what was found, in the dataset's order, and measure it."""
    dataset, options = job.dataset, job.options
    ordered = [store.results[image.id] for image in dataset.images]
    judged = [result for result in ordered if result.bad is None]
    if not judged:
        raise InputError(
            f"dataset {dataset.source}: expected at least one image that can be used, all {len(ordered)} were skipped: "
            f"{ordered[0].bad if ordered else next(iter(dataset.bad_images.values()))}"
        )
    if job.detections is not None:
        write_results(job.detections, judged, job.server_name)
    found = [detection for result in judged for detection in result.coco_results()]
    metrics = published = analysis = None
    if dataset.annotations is not None:
        metrics = coco_metrics(dataset, found, (result.image_id for result in judged), options.evaluator)
        skipped = len(dataset.images) - len(judged) + len(dataset.bad_images)
        conditions = [f"images ({skipped} skipped)"] * bool(skipped) + ["precision (mixed)"] * options.amp
        published = published_verdict(
            dataset, job.config, job.profile, job.metadata, job.era, metrics.ap, conditions
        )
        if options.report is not None:
            analysis = analyse(dataset, judged)
    result = EvaluationResult(
        variant=job.config.name,
        weights=str(options.weights),
        weights_sha256=job.weights_sha256,
        nms=dataclasses.asdict(job.profile),
        aspect_ratios=job.config.aspect_ratios,
        image_size=job.config.image_size,
        dataset=str(dataset.source),
        images=len(judged),
        resumed=resumed,
        detections=len(found),
        detections_file=str(job.detections) if job.detections else None,
        metrics=metrics,
        skipped=_skipped(dataset, ordered),
        published=published,
        seconds=seconds,
        processes=rank.world,
        options={
            key: getattr(options, key)
            for key in ("batch_size", "workers", "amp", "compile", "as_published", "limit")
        }
        | {"device": str(job.device), "channels_last": job.channels_last, "engine": job.engine}
        | {"family": job.era.family if job.era else None},
        notes=(*dataset.notes, *_notes(job, judged)),
        images_sha256=_images_sha256(judged),
        annotations_sha256=file_sha256(dataset.source) if dataset.source else None,
        config=job.config.to_dict(),
        config_sha256=job.config_sha256,
        tool=f"{TOOL} {tool_version()}",
        environment=environment({}),
        command=command(options, rank.world),
        analysis=analysis,
        examples=examples_of(dataset, judged, analysis) if options.report is not None else (),
        image_names={image.id: dataset.name_of(image) for image in dataset.images},
    )
    if options.metrics is not None:
        result.write_json(Path(options.metrics))
    return result


def _images_sha256(judged: Sequence[ImageResult]) -> str:
    """Of the ids and file hashes of the images, one a line, in the dataset's order."""
    return hashlib.sha256("\n".join(f"{r.image_id} {r.sha256}" for r in judged).encode()).hexdigest()


def _skipped(dataset: CocoDataset, ordered: Iterable[ImageResult]) -> tuple[SkippedImage, ...]:
    paths = {image.id: str(image.path) for image in dataset.images}
    read = [SkippedImage(r.image_id, paths[r.image_id], r.bad) for r in ordered if r.bad is not None]
    listed = [SkippedImage(id_, "", reason) for id_, reason in dataset.bad_images.items()]
    return (*listed, *read)


def _notes(job: Job, judged: Sequence[ImageResult]) -> Iterator[str]:
    sizes = {image.id: image.size for image in job.dataset.images}
    other = [r.image_id for r in judged if sizes[r.image_id] not in (None, r.size)]
    if other:
        yield (
            f"{len(other)} images have another size than their annotations say (first: id {other[0]}); EXIF "
            "orientation is ignored, as TensorFlow ignores it."
        )
    if job.era is not None:
        yield f"Family {job.era.family}: {job.era.reason}"
    if job.options.amp:
        yield "Mixed precision: these are not the numbers of float32."


def evaluate_model(
    model: EfficientDet, dataset: CocoDataset, options: EvaluateOptions, rank: Ranks
) -> EvaluationResult | None:
    """`evaluate` of a model in memory: in the same way, with nothing written but what `options.metrics` names.

    Every process calls it, with the same weights; the first one gets the result, the others None.

    Args:
        model: in eval mode, on its device. dataset: with annotations.
        options: `weights` is what the result calls them; with `report` there are analysis and examples.
    """
    device = next(model.parameters()).device
    profile = profile_from_config(model.config, options.nms)
    job = Job(options, model, profile, dataset, None, None, "", device, None, None)
    started = time.monotonic()
    store = DetectionsStore(None, job.settings)
    done, total = 0, len(dataset.images)
    for results in detect_all(job, rank, set()):
        store.append(results)
        done = min(done + len(results) * rank.world, total)
        if options.progress and rank.is_first:
            options.progress(done, total)
    plain = rank.gather([result.to_plain() for result in store.results.values()])
    if not rank.is_first:
        return None
    store.adopt(ImageResult.from_plain(item) for part in plain for item in part)
    return _finish(job, store, 0, time.monotonic() - started, rank)
