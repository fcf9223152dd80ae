"""Training steps of this project, recorded."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from effdet_model.efficientdet import EfficientDet
from training.proof.trace import ProofBatch, StepTrace, is_statistic
from training.recipes import Recipe
from training.step import MicroBatch, TrainingStep
from training.targets import AnchorLabeler, Targets


def port_steps(
    model: EfficientDet, recipe: Recipe, batches: Sequence[ProofBatch], rates: Sequence[float], dtype: torch.dtype,
    instead: Sequence[StepTrace] | None = None,
) -> list[StepTrace]:
    """Train a copy of a model for one step a batch.

    Args:
        rates: of each step, as this project has them.
        instead: the other side's steps, whose targets and rates are trained with where they are given: both were
            compared, and what they round otherwise is not to be multiplied.

    Returns:
        A trace of each step; all gradients, parameters, statistics and averages of the first and the last.
    """
    labeler = AnchorLabeler(model.config, recipe.box_coder)
    step = TrainingStep(copy.deepcopy(model).to(dtype), recipe)
    traces = []
    for place, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
        own = [labeler(boxes, classes) for boxes, classes in zip(batch.boxes, batch.classes, strict=True)]
        other = instead[place] if instead is not None else None
        targets = own if other is None else targets_from(other, own)
        losses = step.backward([MicroBatch(batch.images.to(dtype), targets)])
        kept = place in (0, len(batches) - 1)
        gradients = {
            name: parameter.grad.detach().clone()
            for name, parameter in step.model.named_parameters() if parameter.grad is not None
        } if kept else {}  # fmt: skip
        found = step.update(losses, rate if other is None else other.rate)
        traces.append(
            StepTrace(
                rate=rate,
                positives=torch.tensor([target.num_positives for target in own]),
                class_targets=torch.stack([flat(target.class_targets, 1) for target in own])[..., 0],
                box_targets=torch.stack([flat(target.box_targets, 4) for target in own]),
                losses={name: float(value) for name, value in found.losses.items()},
                norm=float(found.gradient_norm),
                gradients=gradients,
                **(_state(step) if kept else {}),
            )
        )
    return traces


def _state(step: TrainingStep) -> dict[str, dict[str, Tensor]]:
    own = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    averages = {name: tensor.clone() for name, tensor in step.ema.values.items()} if step.ema is not None else {}
    return {
        "parameters": {name: own[name] for name, _ in step.model.named_parameters()},
        "statistics": {name: tensor for name, tensor in own.items() if is_statistic(name)},
        "averages": {name: tensor for name, tensor in averages.items() if tensor.is_floating_point()},
    }


def flat(levels: Sequence[Tensor], width: int) -> Tensor:
    """[h, w, A * width] of each level -> [anchors, width]."""
    return torch.cat([level.reshape(-1, width) for level in levels])


def targets_from(other: StepTrace, own: Sequence[Targets]) -> list[Targets]:
    """The other side's targets in the shapes of this side's."""
    classes, boxes, positives = (
        torch.as_tensor(values) for values in (other.class_targets, other.box_targets, other.positives)
    )
    return [
        Targets(
            _by_level(classes[image].to(torch.int64), target.class_targets),
            _by_level(boxes[image].to(torch.float32), target.box_targets),
            float(positives[image]),
        )
        for image, target in enumerate(own)
    ]


def _by_level(values: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = values.reshape(-1).split([level.numel() for level in like])
    return [part.reshape(level.shape) for part, level in zip(parts, like, strict=True)]
