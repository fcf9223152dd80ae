"""The proof: the same training steps here and in TensorFlow (recipe google) or effdet (recipe effdet)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError, shown, unknown_name
from mappings.table import build_table
from training.proof.comparison import compare_steps
from training.proof.port_side import port_steps
from training.proof.result import ProofResult
from training.proof.tensorflow_side import (
    Read,
    declared_settings,
    frozen_variables,
    reader_of,
    tensorflow_steps,
)
from training.proof.trace import ProofBatch, StepTrace, drawn_batch
from training.recipes import Recipe
from training.running.rates import schedule
from verify.environment import environment
from verify.reference.configuration.config_check import ConfigDifference, config_differences
from verify.reference.configuration.facts import FAMILIES
from verify.reference.configuration.official import declared_hparams, reference_config
from verify.reference.process import ReferenceProcess

DTYPES = ("float64", "float32")
STEPS_PER_EPOCH = 1875
"""What the schedule counts with where no data is given: google/automl's 120000 images in batches of 64."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class ProofOptions:
    """How to prove.

    Attributes:
        dtype: "float64": equal to 1e-9; "float32": no further from TensorFlow's float64 than rounding explains.
        hparams: what google/automl's --hparams takes: how the model differs from its variant.
        family: the release whose day counts (see `verify.reference.configuration.official.reference_config`).
        steps_per_epoch: of the schedule.
        threads: of TensorFlow; None: as many as it likes.
    """

    dtype: str = "float64"
    hparams: str | Mapping[str, Any] | None = None
    family: str | None = None
    steps_per_epoch: int = STEPS_PER_EPOCH
    threads: int | None = None


def prove(
    model: EfficientDet, recipe: Recipe, batches: Sequence[ProofBatch], options: ProofOptions | None = None, *,
    read: Read | None = None, scope: str | None = None, say: Say = lambda text: None,
) -> ProofResult:
    """Train for one step a batch on both sides and compare all that a step makes and changes. `model` stays as it is.

    Nothing may be random: drop path is left out on both sides.

    Args:
        batches: of the steps; the model's image size.
        read: gives a TensorFlow checkpoint's variables by canonical name, which the model was ported from; None: the
            model's own weights, laid out for TensorFlow.
        scope: first part of the backbone's variable names there.

    Raises:
        InputError: a setting that the other side does not have, a model that it does not have, or it cannot run.
    """
    options = options or ProofOptions()
    if options.dtype not in DTYPES:
        raise unknown_name("dtype of the proof", options.dtype, DTYPES)
    if not batches:
        raise InputError("proof: expected at least one batch to train on, found none; give one for each step.")
    if model.config.survival_prob not in (None, 0, 1):
        raise InputError(
            f"proof: expected heads without random residuals, found survival_prob {shown(model.config.survival_prob)}; "
            "set it to 1."
        )
    fixed = recipe.replace(drop_path=0.0)
    if recipe.name == "effdet":
        return _against_effdet(model, fixed, batches, options, _notes(recipe, batches))
    return _against_tensorflow(model, fixed, batches, options, _notes(recipe, batches), read, scope, say)


def drawn_batches(model: EfficientDet, steps: int, images: int = 2, seed: int = 0) -> list[ProofBatch]:
    """Noise with boxes, for a proof without data."""
    return [drawn_batch(model.config, images, seed + step) for step in range(steps)]


def _against_tensorflow(
    model: EfficientDet, recipe: Recipe, batches: Sequence[ProofBatch], options: ProofOptions, notes: list[str],
    read: Read | None, scope: str | None, say: Say,
) -> ProofResult:
    declared = declared_settings(recipe, options.steps_per_epoch)
    table = build_table(model.config)
    declared["frozen"] = frozen_variables(recipe, table)
    shapes = {name: tuple(shape) for name, shape in table.tensorflow_shapes.items()}
    official = _official(model, options, shapes, notes)
    rates = _rates(recipe, len(batches), options.steps_per_epoch)
    started = time.perf_counter()
    with ReferenceProcess("training", threads=options.threads) as process:
        values = read or reader_of(model)

        def reference(dtype: str) -> list[StepTrace]:
            say(f"TensorFlow trains in {dtype}")
            return tensorflow_steps(process, official, declared, values, dtype, table, batches, scope)

        exact = reference("float64")
        single = reference("float32") if options.dtype == "float32" else None
        theirs = time.perf_counter() - started
        versions = process.versions
    say(f"PyTorch trains in {options.dtype}")
    started = time.perf_counter()
    own = port_steps(model, recipe, batches, rates, getattr(torch, options.dtype), exact)
    seconds = {"reference": theirs, "port": time.perf_counter() - started}
    return _result(model, recipe, "TensorFlow", batches, options, (exact, own, single), notes, seconds, versions)


def _against_effdet(
    model: EfficientDet, recipe: Recipe, batches: Sequence[ProofBatch], options: ProofOptions, notes: list[str]
) -> ProofResult:
    from training.proof.effdet_side import VERSION, declared_settings, effdet_steps

    if options.dtype != "float64":
        raise InputError("proof: expected float64 with the recipe effdet, found float32; leave the dtype out.")
    found = _effdet_version()
    if found != VERSION:
        raise InputError(
            f"proof of the recipe effdet: expected the package effdet {VERSION}, found {found or 'none'}; install it: "
            f"pip install effdet=={VERSION}."
        )
    declared = declared_settings(recipe)
    rates = _rates(recipe, len(batches), options.steps_per_epoch)
    started = time.perf_counter()
    exact = effdet_steps(model, declared, batches, rates)
    theirs = time.perf_counter() - started
    own = port_steps(model, recipe, batches, rates, torch.float64, exact)
    seconds = {"reference": theirs, "port": time.perf_counter() - started - theirs}
    notes.append("Learning rates were given to both sides; effdet's own schedule is timm's.")
    return _result(model, recipe, f"effdet {VERSION}", batches, options, (exact, own, None), notes, seconds, {})


def _result(
    model: EfficientDet, recipe: Recipe, against: str, batches: Sequence[ProofBatch], options: ProofOptions,
    sides: tuple[list[StepTrace], list[StepTrace], list[StepTrace] | None], notes: list[str],
    seconds: dict[str, float], versions: Mapping[str, str],
) -> ProofResult:
    exact, own, single = sides
    limit = recipe.clip_norm if recipe.clip_mode != "none" else math.inf
    clipped = sum(trace.norm > limit for trace in exact)
    if not clipped and limit < math.inf:
        notes.append("No gradient was long enough to be clipped.")
    return ProofResult(
        variant=model.config.name, against=against, recipe=recipe.to_dict(), dtype=options.dtype, steps=len(batches),
        images=len(batches[0].images), image_size=model.config.image_size,
        rows=compare_steps(exact, own, single, limit),
        losses=[(theirs.losses["loss"], ours.losses["loss"]) for theirs, ours in zip(exact, own, strict=True)],
        clipped=clipped, notes=notes, environment=environment(versions), seconds=seconds,
    )  # fmt: skip


def _notes(recipe: Recipe, batches: Sequence[ProofBatch]) -> list[str]:
    notes = []
    if recipe.drop_path not in (0, "google"):
        notes.append(f"Drop path ({recipe.drop_path}) is random and was left out on both sides.")
    boxes = sum(len(one) for batch in batches for one in batch.boxes)
    if not boxes:
        notes.append("No batch had a box: nothing of the box loss was seen.")
    return notes


def _official(
    model: EfficientDet, options: ProofOptions, shapes: Mapping[str, Sequence[int]], notes: list[str]
) -> dict[str, Any]:
    """google/automl's configuration of the model: of the family that was named, else of the first that is the port's.

    Raises:
        InputError: both sides mean different models; what the user changed has to be said to the reference as well.
    """
    declared = declared_hparams(options.hparams)
    undeclared: list[ConfigDifference] = []
    for family in [options.family] if options.family else [None, *FAMILIES]:
        try:
            official = reference_config(model.config.name, family=family, hparams=options.hparams, shapes=shapes)
        except InputError:
            if family == options.family:
                raise
            continue
        official["image_size"] = list(model.config.image_size)
        found = [
            difference for difference in config_differences(official, model.config.to_dict(), declared)
            if not difference.declared
        ]  # fmt: skip
        if not found:
            if family != options.family:
                notes.append(f"The reference took google/automl's facts of the family {family}, as the weights do.")
            return official
        undeclared = undeclared or found
    raise InputError(
        f"proof: expected the model that google/automl has under the name {model.config.name}, found "
        f"{'; '.join(map(str, undeclared[:4]))}; declare by --hparams what was changed on purpose."
    )


def _rates(recipe: Recipe, steps: int, per_epoch: int) -> list[float]:
    plan = schedule(recipe, per_epoch, recipe.batch_size)
    return [plan.rate(step) for step in range(steps)]


def _effdet_version() -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version("effdet")
    except importlib.metadata.PackageNotFoundError:
        return None
