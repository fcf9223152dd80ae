"""Optimisers: TensorFlow's momentum and Adam as google/automl uses them, torch's SGD, any of timm's by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from effdet_model.errors import InputError
from training.recipes import Recipe

_EPSILON = {"tf1": 1e-8, "tf2": 1e-7}
"""TensorFlow 1's and Keras's default of Adam."""


class KerasMomentum(torch.optim.Optimizer):
    """SGD as Keras has it: v = momentum v - rate g, w += v. The rate counts when a gradient comes in, not later."""

    def __init__(self, params: Any, lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update with the gradients that the parameters have."""
        for group in self.param_groups:
            params, grads = _with_gradients(group["params"])
            if not params:
                continue
            velocities = _states(self, params, "velocity")
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, grads, alpha=-group["lr"])
            torch._foreach_add_(params, velocities)


class TensorFlowAdam(torch.optim.Optimizer):
    """Adam as TensorFlow has it: epsilon is added before the averages are freed of their bias."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update with the gradients that the parameters have."""
        for group in self.param_groups:
            params, grads = _with_gradients(group["params"])
            group["steps"] += 1
            if not params:
                continue
            first, second = group["betas"]
            means, squares = _states(self, params, "mean"), _states(self, params, "square")
            torch._foreach_mul_(means, first)
            torch._foreach_add_(means, grads, alpha=1 - first)
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, grads, grads, value=1 - second)
            rate = group["lr"] * math.sqrt(1 - second ** group["steps"]) / (1 - first ** group["steps"])
            divisors = torch._foreach_sqrt(squares)
            torch._foreach_add_(divisors, group["eps"])
            torch._foreach_addcdiv_(params, means, divisors, value=-rate)


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of the parameters that are not frozen; its rate is set before each step.

    Raises:
        InputError: timm knows no such optimiser, or nothing is left to train.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"freeze: expected an expression that leaves something to train, found {recipe.freeze!r}, which freezes "
            "every parameter; narrow it."
        )
    groups = _groups(model, recipe)
    rate = recipe.learning_rate
    if recipe.optimizer == "sgd" and recipe.optimizer_form == "tf2":
        return KerasMomentum(groups, rate, recipe.momentum)
    if recipe.optimizer == "sgd":
        sgd = _fused(torch.optim.SGD, groups, lr=rate, momentum=recipe.momentum)
        return _with_momenta(sgd) if recipe.momentum else sgd
    if recipe.optimizer == "adam" and recipe.optimizer_form != "torch":
        first = recipe.momentum if recipe.optimizer_form == "tf2" else 0.9
        return TensorFlowAdam(groups, rate, (first, 0.999), _EPSILON[recipe.optimizer_form])
    if recipe.optimizer == "adamw":
        return _fused(torch.optim.AdamW, groups, lr=rate)
    return _of_timm(groups, recipe)


def decayed_parameters(model: nn.Module, frozen: bool = False) -> list[nn.Parameter]:
    """What has weight decay: kernels of convolutions and linear layers, not those that are frozen unless asked for.

    google/automl's expression is `.*(kernel|weight):0`: no bias, batch norm or fusion weight has such a name.
    """
    return [
        parameter for name, parameter in model.named_parameters()
        if (frozen or parameter.requires_grad) and parameter.ndim >= 2 and name.rsplit(".", 1)[-1] == "weight"
    ]  # fmt: skip


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters with weight decay and those without; all in one group where the loss has the decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.weight_decay_in == "loss" or not recipe.weight_decay:
        return [{"params": trained, "weight_decay": 0.0}]
    decayed = decayed_parameters(model)
    ids = {id(parameter) for parameter in decayed}
    rest = [parameter for parameter in trained if id(parameter) not in ids]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": decayed, "weight_decay": recipe.weight_decay}]
    return [group for group in groups if group["params"]]


def _fused(kind: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]], **settings: Any) -> Any:
    """One kernel for all parameters, where their device and PyTorch have it."""
    try:
        return kind(groups, fused=True, **settings)
    except (RuntimeError, TypeError, ValueError):
        return kind(groups, **settings)


def _with_momenta(sgd: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Momenta of 0 from the start: the fused kernel leaves them unset where float16 overflows in the first update."""
    for group in sgd.param_groups:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def _of_timm(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(
            groups, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=0.0, momentum=recipe.momentum,
            filter_bias_and_bn=False,
        )  # fmt: skip
    except (AssertionError, TypeError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(
            f"optimizer: expected sgd, adam or a name of timm's such as adamw, found {recipe.optimizer!r}: "
            f"{' '.join(str(error).split())[:200]}; correct it."
        ) from error


def _with_gradients(params: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [(parameter, parameter.grad) for parameter in params if parameter.grad is not None]
    return [parameter for parameter, _ in pairs], [gradient for _, gradient in pairs]


def _states(optimizer: torch.optim.Optimizer, params: list[Tensor], name: str) -> list[Tensor]:
    for parameter in params:
        if name not in optimizer.state[parameter]:
            optimizer.state[parameter][name] = torch.zeros_like(parameter)
    return [optimizer.state[parameter][name] for parameter in params]
