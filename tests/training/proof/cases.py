"""A small model, batches and TensorFlow's steps for the tests of the proof; made once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from effdet_model import EfficientDet
from mappings.table import build_table
from tests.verify.diff_cases import SMALL, make_source, ported, small_config
from training.proof.comparison import compare_steps
from training.proof.port_side import port_steps
from training.proof.result import Compared, ProofResult
from training.proof.run import drawn_batches
from training.proof.tensorflow_side import tensorflow_steps
from training.proof.trace import ProofBatch, StepTrace
from training.recipes import Recipe, recipe
from training.running.rates import schedule
from verify.reference.configuration.official import reference_config
from verify.reference.process import ReferenceProcess

TINY = {**SMALL, "fpn_cell_repeats": 1, "box_class_repeats": 1}
SIZE = (64, 64)


@functools.cache
def model(variant: str = "d0") -> tuple[EfficientDet, Any]:
    """A tiny model and the checkpoint that it was ported from."""
    config = small_config(variant, **TINY)
    source = make_source(config)
    return ported(config, source), source


def batches(variant: str = "d0", steps: int = 2) -> list[ProofBatch]:
    """The same ones whenever they are asked for."""
    return drawn_batches(model(variant)[0], steps, images=3)


@functools.cache
def reference(variant: str = "d0", steps: int = 2, **declared: Any) -> tuple[StepTrace, ...]:
    """TensorFlow's steps in float64."""
    own, source = model(variant)
    hparams = {**TINY, "image_size": SIZE}
    with ReferenceProcess("training", threads=1) as process:
        return tuple(
            tensorflow_steps(
                process, reference_config(variant, hparams=hparams), declared, lambda name: source.read(name, "ema"),
                "float64", build_table(own.config), batches(variant, steps),
            )
        )


def port(trained: Recipe, variant: str = "d0", steps: int = 2, own: EfficientDet | None = None) -> list[StepTrace]:
    """This project's steps of the same."""
    rates = [schedule(trained, 1875, trained.batch_size).rate(step) for step in range(steps)]
    return port_steps(
        own or model(variant)[0], trained.replace(drop_path=0.0), batches(variant, steps), rates, torch.float64,
        reference(variant, steps),
    )


def judged(theirs: Sequence[StepTrace], ours: Sequence[StepTrace]) -> ProofResult:
    """Both compared."""
    rows: list[Compared] = compare_steps(theirs, ours)
    return ProofResult(
        "d0", "TensorFlow", recipe().to_dict(), "float64", len(theirs), 3, SIZE, rows,
        [(a.losses["loss"], b.losses["loss"]) for a, b in zip(theirs, ours, strict=True)], 0,
    )
