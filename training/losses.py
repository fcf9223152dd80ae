"""The detection loss of google/automl (det_model_fn.py, tf2/train_lib.py, 6a54c87) and effdet's legacy focal loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError, shown, unknown_name
from training.box_iou import IOU_LOSS_TYPES, iou_loss
from training.targets import Targets, decode_boxes

NOT_COUNTED = -2
"""Class target of an anchor that counts neither as a class nor as background."""


def detection_loss(
    config: EfficientDetConfig,
    class_outputs: Sequence[Tensor],
    box_outputs: Sequence[Tensor],
    targets: Sequence[Targets],
    *,
    label_smoothing: float = 0.0,
    alpha: float = 0.25,
    gamma: float = 1.5,
    delta: float = 0.1,
    box_loss_weight: float = 50.0,
    iou_loss_type: str | None = None,
    iou_loss_weight: float = 1.0,
    legacy_focal: bool = False,
    normalizer: float | Tensor | None = None,
) -> dict[str, Tensor]:
    """What training makes small, for one batch; defaults are google/automl's. Half precision is summed in float32.

    Args:
        class_outputs: [N, A * num_classes, h, w] per level, finest first.
        box_outputs: [N, A * 4, h, w] per level.
        targets: of each image.
        label_smoothing: of the cross-entropy, not of the factors before it.
        alpha: weight of the true class; all others have 1 - alpha.
        gamma: power of the focal factor.
        delta: error from which on the box loss grows linearly.
        box_loss_weight: of the Huber loss; 0 leaves it out.
        iou_loss_type: "iou", "giou", "diou" or "ciou": a loss of the decoded boxes beside the Huber loss.
        iou_loss_weight: of that loss.
        legacy_focal: effdet's form for early official models; without label smoothing.
        normalizer: what all terms are divided by, in place of the batch's positives + 1 (`MovingNormalizer`).

    Returns:
        0-d tensors: "loss", the weighted sum; "class_loss" and "box_loss", and "box_iou_loss" where asked for, not
        yet weighted.

    Raises:
        InputError: outputs and targets do not belong together, or a setting makes no loss.
    """
    _check_settings(label_smoothing, alpha, gamma, delta, box_loss_weight, iou_loss_type, iou_loss_weight, legacy_focal)
    _check_shapes(config, class_outputs, box_outputs, targets)
    class_outputs, box_outputs = _at_least_float32(class_outputs), _at_least_float32(box_outputs)
    like = class_outputs[0]
    if normalizer is None:
        normalizer = positives_normalizer(targets)
    divisor = torch.as_tensor(normalizer, dtype=like.dtype, device=like.device)
    class_targets, box_targets = _stacked(targets, like)

    losses = {"class_loss": like.new_zeros(()), "box_loss": like.new_zeros(())}
    for outputs, wanted in zip(class_outputs, class_targets, strict=True):
        losses["class_loss"] = losses["class_loss"] + _class_loss(
            outputs, wanted, config.num_classes, alpha, gamma, label_smoothing, legacy_focal
        ) / divisor
    if box_loss_weight:
        for outputs, boxes in zip(box_outputs, box_targets, strict=True):
            errors = huber_loss(outputs.permute(0, 2, 3, 1), boxes, delta) * (boxes != 0)
            losses["box_loss"] = losses["box_loss"] + errors.sum() / (divisor * 4.0)
    total = losses["class_loss"] + box_loss_weight * losses["box_loss"]
    if iou_loss_type:
        losses["box_iou_loss"] = _box_iou_loss(config, box_outputs, box_targets, iou_loss_type) / (divisor * 4.0)
        total = total + iou_loss_weight * losses["box_iou_loss"]
    return {"loss": total, **losses}


def positives_normalizer(targets: Sequence[Targets]) -> float:
    """The positives of a batch plus 1: what all loss terms are divided by."""
    return sum(target.num_positives for target in targets) + 1.0


class MovingNormalizer:
    """google/automl's `positives_momentum`: the positives + 1 as a moving average that begins at 0.

    Attributes:
        value: the average so far; part of what has to be saved to go on with training.
    """

    def __init__(self, momentum: float, value: float = 0.0) -> None:
        if not 0 <= momentum < 1:
            raise InputError(f"positives_momentum: expected a number from 0 to below 1, found {shown(momentum)}.")
        self.momentum = momentum
        self.value = value

    def __call__(self, targets: Sequence[Targets]) -> float:
        """The average after this batch."""
        return self.update(positives_normalizer(targets))

    def update(self, normalizer: float) -> float:
        """The average after a batch of so many positives + 1."""
        self.value -= (self.value - normalizer) * (1 - self.momentum)
        return self.value


def focal_loss(
    logits: Tensor, wanted: Tensor, alpha: float, gamma: float, label_smoothing: float = 0.0
) -> Tensor:
    """Focal loss of each logit; `wanted` is 1 for the true class, else 0, of the same shape."""
    positive = wanted > 0
    probability = torch.sigmoid(logits)
    missed = 1 - torch.where(positive, probability, 1 - probability)
    weight = torch.where(positive, logits.new_tensor(alpha), logits.new_tensor(1 - alpha))
    if label_smoothing:
        wanted = wanted * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return weight * missed**gamma * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def legacy_focal_loss(logits: Tensor, wanted: Tensor, alpha: float, gamma: float) -> Tensor:
    """effdet's `focal_loss_legacy`: the same value, the factor computed by logarithms.

    log(1 + exp(-x)) is written as softplus(-x), which is the same and does not overflow for x below -88.
    """
    factor = torch.exp(-gamma * wanted * logits - gamma * F.softplus(-logits))
    loss = factor * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return torch.where(wanted == 1, alpha * loss, (1 - alpha) * loss)


def huber_loss(outputs: Tensor, wanted: Tensor, delta: float) -> Tensor:
    """Half the square of each error up to `delta`, from there on linear."""
    error = (outputs - wanted).abs()
    quadratic = torch.where(error <= delta, error, torch.full_like(error, delta))
    return 0.5 * quadratic.square() + delta * (error - quadratic)


def _class_loss(
    outputs: Tensor, class_targets: Tensor, num_classes: int, alpha: float, gamma: float, smoothing: float, legacy: bool
) -> Tensor:
    """Sum over one level. Both tensors are seen as [N, A, classes, h, w], as the model gives them."""
    batch, _, height, width = outputs.shape
    logits = outputs.reshape(batch, -1, num_classes, height, width)
    places = class_targets.permute(0, 3, 1, 2).unsqueeze(2)
    wanted = torch.zeros_like(logits).scatter_(2, places.clamp(min=0), (places >= 0).to(logits.dtype))
    if legacy:
        losses = legacy_focal_loss(logits, wanted, alpha, gamma)
    else:
        losses = focal_loss(logits, wanted, alpha, gamma, smoothing)
    counted = places != NOT_COUNTED
    return losses.sum() if bool(counted.all()) else (losses * counted).sum()


def _box_iou_loss(
    config: EfficientDetConfig, box_outputs: Sequence[Tensor], box_targets: Sequence[Tensor], kind: str
) -> Tensor:
    """Sum over all levels of the boxes that have a target.

    google/automl lays the outputs out level by level, and beside them the anchors image by image. With several images
    a box is so decoded with an anchor of another size, but of the same shape, for output and target alike; no IoU
    sees that, but for rounding. The order is kept.
    """
    predicted = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, 4) for level in box_outputs])
    wanted = torch.cat([level.reshape(-1, 4) for level in box_targets])
    anchors = torch.from_numpy(anchors_from_config(config)).to(predicted)
    anchors = anchors.repeat(len(predicted) // len(anchors), 1)
    matched = (wanted != 0).any(dim=1)
    predicted, wanted, anchors = predicted[matched], wanted[matched], anchors[matched]
    mask = (wanted != 0).to(predicted.dtype)
    return iou_loss(decode_boxes(predicted, anchors) * mask, decode_boxes(wanted, anchors) * mask, kind).sum()


def _stacked(targets: Sequence[Targets], like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    classes = [torch.stack(level).to(like.device) for level in zip(*(t.class_targets for t in targets), strict=True)]
    boxes = [
        torch.stack(level).to(device=like.device, dtype=like.dtype)
        for level in zip(*(t.box_targets for t in targets), strict=True)
    ]
    return classes, boxes


def _at_least_float32(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [out.float() if out.dtype in (torch.float16, torch.bfloat16) else out for out in outputs]


def _check_settings(
    label_smoothing: float, alpha: float, gamma: float, delta: float, box_loss_weight: float,
    iou_loss_type: str | None, iou_loss_weight: float, legacy_focal: bool,
) -> None:
    bounds = {
        "label_smoothing": (label_smoothing, 0.0, 1.0), "alpha": (alpha, 0.0, 1.0), "gamma": (gamma, 0.0, 100.0),
        "delta": (delta, 1e-9, 1e6), "box_loss_weight": (box_loss_weight, 0.0, 1e9),
        "iou_loss_weight": (iou_loss_weight, 0.0, 1e9),
    }
    for name, (value, low, high) in bounds.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
            raise InputError(f"{name}: expected a number from {low:g} to {high:g}, found {shown(value)}; correct it.")
    if iou_loss_type and iou_loss_type not in IOU_LOSS_TYPES:
        raise unknown_name("iou_loss_type", iou_loss_type, IOU_LOSS_TYPES)
    if legacy_focal and label_smoothing:
        raise InputError(
            f"label_smoothing: expected 0 with the legacy focal loss, which has none, found {shown(label_smoothing)}; "
            "leave one of them out."
        )


def _check_shapes(
    config: EfficientDetConfig, class_outputs: Sequence[Tensor], box_outputs: Sequence[Tensor], targets: Sequence[Any]
) -> None:
    anchors = config.anchors_per_location
    if not targets or not len(class_outputs) == len(box_outputs) == config.num_levels:
        raise InputError(
            f"detection loss: expected outputs of {config.num_levels} levels and targets of one image or more, found "
            f"{len(class_outputs)} class and {len(box_outputs)} box outputs and {len(targets)} targets."
        )
    for place, (classes, boxes) in enumerate(zip(class_outputs, box_outputs, strict=True)):
        height, width, count = targets[0].class_targets[place].shape
        expected = [(len(targets), anchors * each, height, width) for each in (config.num_classes, 4)]
        found = [tuple(classes.shape), tuple(boxes.shape)]
        if expected != found or count != anchors:
            raise InputError(
                f"detection loss, level {config.min_level + place}: expected class and box outputs of shapes "
                f"{expected[0]} and {expected[1]} for these targets with {count} anchors at each place, found "
                f"{found[0]} and {found[1]}; make targets with the model's own config and image size."
            )
