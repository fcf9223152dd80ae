"""Batch norms in training: over the images of all processes, with frozen statistics, of a single value.

The layers of a model become these in place: names, values and what they do in evaluation stay. Running variances are
of N - 1 values, as TensorFlow's fused operation and PyTorch have them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from training.recipes import Recipe

_recomputing = False


class TrainedBatchNorm(nn.BatchNorm2d):
    """torch's batch norm; see `train_batch_norms`."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same shape."""
        return _batch_norm(self, x)


class TrainedBatchNormAct(BatchNormAct2d):
    """timm's batch norm with its activation; see `train_batch_norms`."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same shape."""
        return self.act(self.drop(_batch_norm(self, x)))


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: TrainedBatchNorm,
    BatchNormAct2d: TrainedBatchNormAct,
}


def train_batch_norms(model: nn.Module, recipe: Recipe, synchronised: bool = False) -> None:
    """Prepare a model's batch norms for training, in place.

    Args:
        synchronised: mean and variance are over the images of all processes of the default group.
    """
    frozen = re.compile(recipe.freeze) if recipe.freeze and recipe.freeze_statistics else None
    for name, module in model.named_modules():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        in_backbone = name.startswith("backbone.")
        momentum = recipe.backbone_batch_norm_momentum if in_backbone else recipe.batch_norm_momentum
        if momentum is not None:
            module.momentum = momentum
        if type(module) in _OURS:
            own: Any = module
            own.__class__ = _OURS[type(module)]
        own = module
        own.synchronised = synchronised
        own.statistics_frozen = bool(frozen and frozen.match(f"{name}.weight"))


@contextlib.contextmanager
def recomputing() -> Iterator[None]:
    """While activations are computed again for the backward pass: statistics were counted the first time."""
    global _recomputing
    before, _recomputing = _recomputing, True
    try:
        yield
    finally:
        _recomputing = before


def _batch_norm(norm: Any, x: Tensor) -> Tensor:
    if not norm.training or norm.statistics_frozen:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    counts = norm.track_running_stats and not _recomputing
    if counts:
        norm.num_batches_tracked.add_(1)
    if norm.synchronised or x.numel() == x.shape[1]:
        return _over_all_processes(norm, x, counts)
    mean, variance = norm.running_mean, norm.running_var
    if not counts and mean is not None:  # the same operation, saving as much for the backward pass
        mean, variance = mean.clone(), variance.clone()
    return F.batch_norm(x, mean, variance, norm.weight, norm.bias, True, norm.momentum, norm.eps)


def _over_all_processes(norm: Any, x: Tensor, counts: bool) -> Tensor:
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    out, mean, variance, count = _Normalised.apply(wide, norm.weight, norm.bias, norm.eps, norm.synchronised)
    if counts:
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    return out.to(x.dtype)


class _Normalised(torch.autograd.Function):
    """Batch norm over the images of all processes; any process may have none."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, synchronised: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = x.numel() // x.shape[1]
        if count:
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        else:
            mean = variance = x.new_zeros(x.shape[1])
        own = torch.cat([x.new_full((1,), count), mean, variance])
        parts = torch.stack(_gathered(own) if synchronised else [own])
        shares, (means, variances) = parts[:, :1], parts[:, 1:].chunk(2, dim=1)
        total = shares.sum()
        mean = (shares * means).sum(0) / total
        variance = (shares * (variances + (means - mean).square())).sum(0) / total
        scale = torch.rsqrt(variance + eps)
        normal = (x - _wide(mean)) * _wide(scale)
        ctx.save_for_backward(normal, weight, scale, total)
        ctx.synchronised = synchronised
        ctx.mark_non_differentiable(mean, variance, total)
        return normal * _wide(weight) + _wide(bias), mean, variance, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        normal, weight, scale, total = ctx.saved_tensors
        grad_bias = grad.sum((0, 2, 3))
        grad_weight = (grad * normal).sum((0, 2, 3))
        sums = torch.stack([grad_bias, grad_weight])
        if ctx.synchronised:
            dist.all_reduce(sums)
        mean_grad, mean_normal = sums / total
        grad_x = (grad - _wide(mean_grad) - normal * _wide(mean_normal)) * _wide(weight * scale)
        return grad_x, grad_weight, grad_bias, None, None


def _gathered(own: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    return parts


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None]
