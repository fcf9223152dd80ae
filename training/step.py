"""One training step: forward, losses, weight decay, clipping, update, moving average."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError
from training.batch_norm import train_batch_norms
from training.drop_path import apply_drop_path
from training.ema import MovingAverage
from training.gradients import add_decay, clip_gradients, kernel_loss
from training.losses import MovingNormalizer, detection_loss
from training.optimiser import build_optimizer, decayed_parameters
from training.recipes import Recipe
from training.targets import Targets

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class MicroBatch(NamedTuple):
    """Images that go through the network at once; a step adds up the gradients of one or more of them.

    Attributes:
        images: float [N, 3, H, W], normalised; N may be 0 in a process that has no image left.
        targets: of each image.
    """

    images: Tensor
    targets: Sequence[Targets]


@dataclass(frozen=True)
class StepResult:
    """What a step found; all 0-d tensors, over all processes.

    Attributes:
        losses: "loss" (with the weight decay where the recipe has that in the loss), "detection_loss", "class_loss",
            "box_loss", and "box_iou_loss" and "reg_l2_loss" where there are such.
        gradient_norm: before clipping; with the weight decay where that is in the loss.
        updated: False where float16 overflowed and the update was left out.
    """

    losses: dict[str, Tensor]
    gradient_norm: Tensor
    updated: bool


class NotFinite(Exception):
    """Losses or gradients are NaN or infinite; weights are still those before the step."""

    def __init__(self, losses: dict[str, float], gradient_norm: float | None) -> None:
        super().__init__("loss or gradients are not finite")
        self.losses, self.gradient_norm = losses, gradient_norm


class TrainingStep:
    """A model with all that a step changes: optimiser, moving average, scaler, moving normaliser.

    The model is prepared in place: put into training mode, batch norms and drop path as the recipe has them, frozen
    parameters without gradients. It may be in float64. Nothing here is random but drop path (torch's generator).

    Args:
        model: any EfficientDet.
        recipe: see `training.recipes`.
        amp: "bf16" or "fp16": the network runs in mixed precision, and the latter with a scaled loss.
        synchronised: batch norms see the images of all processes.

    Attributes:
        network: what is called with images; the model, or what wraps it (`compile_with`, `distribute`).
        optimizer, ema (None without), scaler, normalizer (None without `positives_momentum` above 0).
    """

    def __init__(
        self, model: EfficientDet, recipe: Recipe, *, amp: str | None = None, synchronised: bool = True
    ) -> None:
        self.model, self.recipe, self.amp = model, recipe, amp
        self.world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        model.train()
        freeze(model, recipe)
        train_batch_norms(model, recipe, synchronised and self.world > 1)
        apply_drop_path(model.backbone, model.config, recipe)
        self.network: nn.Module = model
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, recipe)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.fusion_weights = [
            parameter for name, parameter in model.named_parameters()
            if parameter.requires_grad and name.endswith(".edge_weights")
        ]  # fmt: skip
        self.kernels = decayed_parameters(model) if recipe.weight_decay_in == "loss" and recipe.weight_decay else []
        self.ema = MovingAverage(model, recipe) if recipe.ema_decay else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        momentum = recipe.positives_momentum or 0.0
        self.normalizer = MovingNormalizer(momentum) if momentum > 0 else None

    def __call__(self, batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """One update: the batches together make one batch, but for batch norms, which see each by itself.

        Raises:
            NotFinite: before anything but batch norm statistics was changed.
        """
        losses = self.backward(batches)
        return self.update(losses, learning_rate)

    def backward(self, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Losses, and their gradients in the parameters' `grad`: unscaled, with the weight decay of the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        normalizer = self._normalizer(batches)
        losses: dict[str, Tensor] = {}
        for place, batch in enumerate(batches):
            with self._unreduced(last=place == len(batches) - 1):
                found = self._losses(batch, normalizer)
                self.scaler.scale(found["loss"] * self._gradient_share()).backward()
            for name, value in found.items():
                losses[name] = losses.get(name, 0.0) + value.detach()
        self.scaler.unscale_(self.optimizer)
        losses = self._over_processes(losses)
        losses = {"loss": losses["loss"], "detection_loss": losses["loss"], **losses}
        if self.kernels:
            counted = decayed_parameters(self.model, frozen=self.recipe.generation == "tf1")  # as each trainer counts
            losses["reg_l2_loss"] = kernel_loss(counted, self.recipe.weight_decay)
            losses["loss"] = losses["loss"] + losses["reg_l2_loss"]
            add_decay(self.kernels, self.recipe.weight_decay)
        return losses

    def update(self, losses: dict[str, Tensor], learning_rate: float) -> StepResult:
        """Clip the gradients, move the weights, then their averages.

        Raises:
            NotFinite: nothing was moved.
        """
        norm = clip_gradients(self.parameters, self.recipe.clip_mode, self.recipe.clip_norm, self.fusion_weights)
        finite = bool(torch.isfinite(losses["loss"])) and (self.scaler.is_enabled() or bool(torch.isfinite(norm)))
        if not finite:
            raise NotFinite({name: float(value) for name, value in losses.items()}, float(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        updated = not self.scaler.is_enabled() or self.scaler.get_scale() >= scale
        if self.ema is not None and updated:
            self.ema.update(self.model)
        return StepResult(losses, norm, updated)

    def state_dict(self) -> dict[str, Any]:
        """All that has to be saved to go on to the same bits, as tensors and plain data."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "scaler": self.scaler.state_dict(),
            "normalizer": self.normalizer.value if self.normalizer is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.normalizer is not None:
            self.normalizer.value = float(state["normalizer"])

    def distribute(self) -> None:
        """Reduce gradients over all processes while they are computed (DistributedDataParallel)."""
        if self.world > 1:
            on_gpu = [self.device] if self.device.type == "cuda" else None
            self.network = nn.parallel.DistributedDataParallel(
                self.network, device_ids=on_gpu, broadcast_buffers=False, gradient_as_bucket_view=False,
            )  # fmt: skip

    def _losses(self, batch: MicroBatch, normalizer: float) -> dict[str, Tensor]:
        dtype = AMP_DTYPES.get(self.amp or "")
        context = torch.autocast(self.device.type, dtype) if dtype is not None else contextlib.nullcontext()
        with context:
            class_outputs, box_outputs = self.network(batch.images)
        if not batch.targets:  # still part of what all processes compute together
            nothing = sum(out.float().sum() for out in (*class_outputs, *box_outputs)) * 0.0
            return {"loss": nothing, "class_loss": nothing, "box_loss": nothing, **self._no_iou_loss(nothing)}
        return detection_loss(
            self.model.config, class_outputs, box_outputs, batch.targets, normalizer=normalizer,
            **self.recipe.loss_settings(),
        )  # fmt: skip

    def _no_iou_loss(self, nothing: Any) -> dict[str, Any]:
        return {"box_iou_loss": nothing} if self.recipe.iou_loss_type else {}

    def _normalizer(self, batches: Sequence[MicroBatch]) -> float:
        """What losses are divided by: the positives + 1 of the whole step, of all processes or this one."""
        positives = float(sum(target.num_positives for batch in batches for target in batch.targets))
        momentum = self.recipe.positives_momentum or 0.0
        if self.world > 1 and self.recipe.replicas == "one_batch":
            positives = self._sum(positives)
        normalizer = positives + 1.0
        if self.world > 1 and momentum < 0:
            normalizer = self._sum(normalizer) / self.world
        return self.normalizer.update(normalizer) if self.normalizer is not None else normalizer

    def _sum(self, value: float) -> float:
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def _gradient_share(self) -> float:
        """DistributedDataParallel averages; a sum is that many times as much."""
        return 1.0 if self.recipe.replicas == "mean" else float(self.world)

    def _over_processes(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.world == 1:
            return losses
        values = torch.stack(list(losses.values()))
        dist.all_reduce(values)
        if self.recipe.replicas != "one_batch":
            values = values / self.world
        return dict(zip(losses, values.unbind(), strict=True))

    def _unreduced(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """All but the last batch of a step keep their gradients to this process."""
        if last or not isinstance(self.network, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.network.no_sync()


def freeze(model: nn.Module, recipe: Recipe) -> list[str]:
    """Take parameters out of training whose names the recipe's expression matches; their names.

    Raises:
        InputError: it matches none.
    """
    if recipe.freeze is None:
        return []
    pattern = re.compile(recipe.freeze)
    named = [(name, parameter) for name, parameter in model.named_parameters() if pattern.match(name)]
    if not named:
        roots = sorted({name.split(".", 1)[0] for name, _ in model.named_parameters()})
        raise InputError(
            f"freeze: expected an expression that matches the beginning of a parameter's name, found "
            f"{recipe.freeze!r}, which matches none; names begin with {', '.join(roots)}."
        )
    for _, parameter in named:
        parameter.requires_grad_(False)
    return [name for name, _ in named]
