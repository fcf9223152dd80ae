"""`train --prove`: the proof with what a training is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.config import parse_image_size
from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError
from effdet_model.factory import create_model
from porting.checkpoint.sources import Source, open_source
from training.initialise import initialise
from training.proof.result import ProofResult
from training.proof.run import STEPS_PER_EPOCH, ProofOptions, drawn_batches, prove
from training.proof.tensorflow_side import Read
from training.proof.trace import ProofBatch
from training.recipes import Recipe, recipe
from training.running.job import prepare
from training.running.options import TrainOptions
from verify.evaluation.ranks import ranks
from verify.reference.configuration.official import all_hparams
from verify.reference.configuration.values import official_values


@dataclass(frozen=True)
class ProveOptions:
    """What `train --prove` is asked for beside the training itself.

    Attributes:
        steps: of training. images: of each step, at most.
        dtype, threads: see `training.proof.run.ProofOptions`.
        checkpoint: of TensorFlow, which the weights were ported from; None: the reference takes the weights themselves,
            laid out for it.
        hparams: as the user typed them.
    """

    steps: int = 5
    images: int = 2
    dtype: str = "float64"
    checkpoint: str | Path | None = None
    hparams: str | None = None
    threads: int | None = None


def run_proof(options: TrainOptions, how: ProveOptions) -> ProofResult:
    """Prove the training that `options` ask for: its recipe, its weights and its first batches.

    Without data it trains on drawn batches. Nothing is written.

    Raises:
        InputError: see `training.proof.run.prove` and `training.loop.train`.
    """
    if not 1 <= how.steps <= 100 or not 1 <= how.images <= 64:
        raise InputError(
            f"proof: expected 1 to 100 steps of 1 to 64 images, found {how.steps} steps of {how.images}; correct it."
        )
    model, chosen, batches, per_epoch = _training(options, how)
    settings = ProofOptions(
        how.dtype, how.hparams or dict(options.hparams) or None, None, per_epoch or STEPS_PER_EPOCH, how.threads
    )
    with _checkpoint(how, model) as (read, scope):
        return prove(model, chosen, batches, settings, read=read, scope=scope, say=options.say)


def _training(options: TrainOptions, how: ProveOptions) -> tuple[EfficientDet, Recipe, list[ProofBatch], int | None]:
    """Model, recipe, batches, steps of an epoch: of the data, or drawn."""
    if options.coco is None and options.images is None:
        chosen = recipe(options.recipe, generation=options.generation, **options.settings)
        if isinstance(options.batch_size, int):
            chosen = chosen.replace(batch_size=options.batch_size)
        model = _model(options, chosen)
        return model, chosen, drawn_batches(model, how.steps, how.images, chosen.seed), None
    with ranks() as rank:
        job = prepare(dataclasses.replace(options, evaluate_every=0, device="cpu"), rank)
    coming = (batch for epoch in itertools.count() for batch in job.loader.epoch(epoch))
    batches = [
        ProofBatch(batch.images[: how.images], batch.boxes[: how.images], batch.classes[: how.images])
        for batch in itertools.islice(coming, how.steps)
    ]
    return job.model, job.recipe, batches, job.schedule.steps_per_epoch


def _model(options: TrainOptions, chosen: Recipe) -> EfficientDet:
    if options.weights is None and options.variant is None:
        raise InputError("train: expected --weights FILE or --variant NAME to begin with, found neither; name one.")
    changes: dict[str, Any] = dict(options.hparams)
    if options.image_size is not None:
        changes["image_size"] = parse_image_size(options.image_size)
    model = create_model(options.variant, weights=options.weights, **changes)
    if options.weights is None:
        initialise(model, chosen)
    return model


@contextlib.contextmanager
def _checkpoint(how: ProveOptions, model: EfficientDet) -> Iterator[tuple[Read | None, str | None]]:
    """How to read the variables of the checkpoint that was named, and its backbone's scope."""
    if how.checkpoint is None:
        yield None, None
        return
    with open_source(how.checkpoint) as source:
        yield _reader(source, how), source.backbone_scope


def _reader(source: Source, how: ProveOptions) -> Read:
    files = [file.name for file in source.files]
    kind, _ = official_values(source.raw_names, files, all_hparams(how.hparams))
    source.meant(list(source.variables), kind)  # refuses what is not all there
    return lambda name: source.read(name, kind)
