"""Training steps of effdet 0.4.1 itself, recorded: its model, labeler, loss, optimiser, clipping and average."""

from __future__ import annotations

import unittest.mock
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effdet_model.config import EfficientDetConfig
from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError, shown
from training.proof.port_side import flat
from training.proof.trace import ProofBatch, StepTrace, is_statistic
from training.recipes import Recipe, recipe

VERSION = "0.4.1"

_DEFAULTS: Mapping[str, float] = {"momentum": 0.9, "weight_decay": 4e-5, "clip_norm": 10.0, "ema_decay": 0.9998}
"""What effdet's train.py takes where nothing else is said (c6dff77)."""

_CONFIG = {
    "image_size": "image_size", "num_classes": "num_classes", "min_level": "min_level", "max_level": "max_level",
    "num_scales": "num_scales", "aspect_ratios": "aspect_ratios", "anchor_scale": "anchor_scale",
    "box_class_repeats": "box_class_repeats", "fpn_cell_repeats": "fpn_cell_repeats",
    "fpn_num_filters": "fpn_channels",
}  # fmt: skip
"""Fields of a model's size that a user may have changed, and effdet's names for them."""

_LOSS = ("alpha", "gamma", "label_smoothing", "legacy_focal", "delta", "box_loss_weight")
_WITHOUT_EFFECT = (
    "seed", "replicas", "batch_size", "initial_weights", "augmentation_style", "drop_path", "generation", "epochs",
    "learning_rate", "warmup_learning_rate", "warmup_epochs", "schedule", "min_learning_rate", "cooldown_epochs",
    "decay_epochs", "decay_rate", "lr_noise", "lr_noise_pct", "lr_noise_std",
)  # fmt: skip
"""Settings that change nothing of a step whose batch, rate and first weights are given."""


def effdet_steps(
    model: EfficientDet, declared: Mapping[str, Any], batches: Sequence[ProofBatch], rates: Sequence[float]
) -> list[StepTrace]:
    """Train effdet's model with the weights of ours, in float64, for one step a batch.

    Args:
        declared: settings that are not effdet's defaults, by this project's names.

    Raises:
        InputError: effdet has no such model.
    """
    from effdet.anchors import AnchorLabeler, Anchors
    from effdet.loss import DetectionLoss
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV2, dispatch_clip_grad

    settings = {**_DEFAULTS, **declared}
    theirs = _model(model, declared).double().train()
    labeler = AnchorLabeler(Anchors.from_config(theirs.config), model.config.num_classes, match_threshold=0.5)
    loss = DetectionLoss(theirs.config)
    optimizer = create_optimizer_v2(
        theirs, opt="momentum", lr=rates[0], weight_decay=settings["weight_decay"], momentum=settings["momentum"]
    )
    ema = ModelEmaV2(theirs, decay=settings["ema_decay"])
    traces = []
    for place, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
        classes, boxes, positives = labeler.batch_label_anchors(list(batch.boxes), list(batch.classes))
        class_outputs, box_outputs = theirs(batch.images.double())
        with _no_rounding():
            total, class_loss, box_loss = loss(class_outputs, box_outputs, classes, boxes, positives.double())
        optimizer.zero_grad()
        total.backward()
        kept = place in (0, len(batches) - 1)
        gradients = {
            name: parameter.grad.detach().clone() for name, parameter in theirs.named_parameters()
            if parameter.grad is not None
        } if kept else {}  # fmt: skip
        norm = torch.linalg.vector_norm(
            torch.stack([parameter.grad.norm() for parameter in theirs.parameters() if parameter.grad is not None])
        )
        dispatch_clip_grad(theirs.parameters(), settings["clip_norm"], mode="norm")
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        ema.update(theirs)
        terms = {"loss": total, "detection_loss": total, "class_loss": class_loss, "box_loss": box_loss}
        traces.append(
            StepTrace(
                rate=rate, positives=positives, class_targets=_flat_batch(classes, 1)[..., 0],
                box_targets=_flat_batch(boxes, 4),
                losses={name: float(value.detach()) for name, value in terms.items()},
                norm=float(norm), gradients=gradients, **(_state(theirs, ema.module) if kept else {}),
            )
        )
    return traces


def declared_settings(chosen: Recipe) -> dict[str, Any]:
    """What a recipe has otherwise than effdet's defaults.

    Raises:
        InputError: effdet's trainer has no such setting.
    """
    base = recipe("effdet")
    declared = {}
    for name, value in chosen.to_dict().items():
        if value == getattr(base, name) or name in _WITHOUT_EFFECT:
            continue
        if name not in _DEFAULTS and name not in _LOSS:
            raise InputError(
                f"proof: expected settings that effdet's trainer has as well, found {name} {shown(value)}; leave it "
                "out to prove the rest."
            )
        declared[name] = value
    return declared


def _model(model: EfficientDet, declared: Mapping[str, Any]) -> nn.Module:
    from effdet import EfficientDet as EffdetModel
    from effdet.config import get_efficientdet_config

    config = get_efficientdet_config(_name(model.config))
    own = model.config.to_dict()
    for field, theirs in _CONFIG.items():
        config[theirs] = tuple(own[field]) if field == "image_size" else own[field]
    config.num_levels = model.config.num_levels
    config.backbone_args = {"drop_path_rate": 0.0}
    for name in _LOSS:
        if name in declared:
            config[name] = declared[name]
    made = EffdetModel(config, pretrained_backbone=False)
    try:
        made.load_state_dict(model.state_dict(), strict=True)
    except RuntimeError as error:
        raise InputError(
            f"proof: expected a model that effdet has as well, found {model.config.name} with other tensors: "
            f"{' '.join(str(error).split())[:200]}; prove it with the recipe google."
        ) from error
    return made


def _name(config: EfficientDetConfig) -> str:
    from effdet.config.model_config import efficientdet_model_param_dict as known

    short = config.name.removesuffix("_640")
    for name in (f"tf_efficientdet_{short}", short):
        if name in known:
            return name
    raise InputError(f"proof: expected a model that effdet has as well, found {config.name}; use the recipe google.")


def _no_rounding() -> Any:
    """effdet's loss casts to float32; in float64 that cast is left out."""
    return unittest.mock.patch.object(Tensor, "float", lambda tensor: tensor)


def _flat_batch(levels: Sequence[Tensor], width: int) -> Tensor:
    images = len(levels[0])
    return torch.stack([flat([level[image] for level in levels], width) for image in range(images)])


def _state(model: nn.Module, average: nn.Module) -> dict[str, dict[str, Tensor]]:
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {
        "parameters": {name: own[name] for name, _ in model.named_parameters()},
        "statistics": {name: tensor for name, tensor in own.items() if is_statistic(name)},
        "averages": {
            name: tensor.clone() for name, tensor in average.state_dict().items() if tensor.is_floating_point()
        },
    }
