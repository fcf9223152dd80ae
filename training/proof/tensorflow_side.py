"""Training steps of the TensorFlow reference, recorded under the names of the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError, shown
from mappings.layouts import LAYOUTS
from mappings.table import MappingTable, build_table
from training.proof.trace import ProofBatch, StepTrace, is_statistic
from training.recipes import Recipe, recipe
from verify.reference.process import ReferenceProcess

Read = Callable[[str], np.ndarray]

_NAMES = {
    "momentum": "momentum", "learning_rate": "learning_rate", "warmup_learning_rate": "lr_warmup_init",
    "warmup_epochs": "lr_warmup_epoch", "first_drop_epoch": "first_lr_drop_epoch",
    "second_drop_epoch": "second_lr_drop_epoch", "poly_power": "poly_lr_power", "schedule": "lr_decay_method",
    "epochs": "num_epochs", "clip_norm": "clip_gradients_norm", "ema_decay": "moving_average_decay",
    "weight_decay": "weight_decay", "alpha": "alpha", "gamma": "gamma", "label_smoothing": "label_smoothing",
    "delta": "delta", "box_loss_weight": "box_loss_weight", "iou_loss_type": "iou_loss_type",
    "iou_loss_weight": "iou_loss_weight", "positives_momentum": "positives_momentum", "optimizer": "optimizer",
}  # fmt: skip
"""A recipe's settings, and google/automl's names for them."""

_WITHOUT_EFFECT = ("seed", "replicas", "batch_size", "initial_weights", "augmentation_style", "drop_path", "freeze")
"""Settings that change nothing of a step whose batch and first weights are given, or are told by other means."""


def tensorflow_steps(
    process: ReferenceProcess, config: Mapping[str, Any], declared: Mapping[str, Any], read: Read, dtype: str,
    table: MappingTable, batches: Sequence[ProofBatch], scope: str | None = None,
) -> list[StepTrace]:
    """Train the reference for one step a batch.

    Args:
        config: plain values with google/automl's names. declared: see `verify.reference.trainer.facts.SETTINGS`.
        read: gives the array of a variable by its canonical name.
        table: of the PyTorch model; its layouts alone are used here.
    """
    process.open(config, read, dtype, scope, training=declared)
    traces = []
    for place, batch in enumerate(batches):
        kept = place in (0, len(batches) - 1)
        give = ["labels", *(("gradients", "variables", "averages") if kept else ())]
        images = np.ascontiguousarray(batch.images.numpy().astype(dtype).transpose(0, 2, 3, 1))
        boxes, classes = ([one.numpy() for one in each] for each in (batch.boxes, batch.classes))
        found = process.train(images, boxes, classes, give)
        variables = _by_key(table, found, "variable")
        traces.append(
            StepTrace(
                rate=float(found["rate"]), positives=found["positives"], class_targets=found["labels/class"],
                box_targets=found["labels/box"],
                losses={name.removeprefix("loss/"): float(found[name]) for name in found if name.startswith("loss/")},
                norm=float(found["norm"]), gradients=_by_key(table, found, "gradient"),
                parameters={key: value for key, value in variables.items() if not is_statistic(key)},
                statistics={key: value for key, value in variables.items() if is_statistic(key)},
                averages=_by_key(table, found, "average"),
            )
        )
    return traces


def _by_key(table: MappingTable, found: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    arrays = {}
    for row in table.rows:
        names = [f"{kind}/{name}" for name in row.tensorflow_names]
        if names and all(name in found for name in names):
            arrays[row.pytorch_key] = np.array(LAYOUTS[row.kind].to_pytorch([found[name] for name in names]))
    return arrays


def reader_of(model: EfficientDet) -> Read:
    """A model's own weights by their canonical TensorFlow names."""
    state = {key: tensor.detach().cpu().numpy() for key, tensor in model.state_dict().items()}
    values: dict[str, np.ndarray] = {}
    for row in build_table(model.config).rows:
        arrays = LAYOUTS[row.kind].to_tensorflow(state[row.pytorch_key])
        values.update(zip(row.tensorflow_names, arrays, strict=True))
    return lambda name: np.array(values[name], order="C")


def declared_settings(chosen: Recipe, steps_per_epoch: int) -> dict[str, Any]:
    """What a recipe has otherwise than its defaults, in google/automl's words; the defaults are not handed over.

    Args:
        steps_per_epoch: what the schedule counts with.

    Raises:
        InputError: google/automl's trainer has no such setting.
    """
    base = recipe(chosen.name, generation=chosen.generation)
    declared: dict[str, Any] = {
        "generation": chosen.generation, "num_examples_per_epoch": steps_per_epoch * chosen.batch_size,
        "batch_size": chosen.batch_size,
    }  # fmt: skip
    for name, value in chosen.to_dict().items():
        if value == getattr(base, name) or name in _WITHOUT_EFFECT:
            continue
        if name == "clip_mode" and value == "none":
            declared["clip_gradients_norm"] = 0.0
        elif name in _NAMES:
            declared[_NAMES[name]] = value
        else:
            raise InputError(
                f"proof: expected settings that google/automl's trainer has as well, found {name} {shown(value)}; "
                "leave it out to prove the rest."
            )
    if declared.get("optimizer", "sgd") not in ("sgd", "adam"):
        raise InputError(
            f"proof: expected optimizer sgd or adam, which google/automl has, found {shown(chosen.optimizer)}; prove "
            "the rest of the recipe with one of them."
        )
    return declared


def frozen_variables(chosen: Recipe, table: MappingTable) -> list[str]:
    """Canonical names of the variables whose parameters the recipe freezes."""
    import re

    if chosen.freeze is None:
        return []
    pattern = re.compile(chosen.freeze)
    return [name for row in table.rows if pattern.match(row.pytorch_key) for name in row.tensorflow_names]
