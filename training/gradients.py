"""What happens to gradients before an update: weight decay of the loss, clipping."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn


def kernel_loss(kernels: Sequence[Tensor], weight_decay: float) -> Tensor:
    """google/automl's `reg_l2_loss`: weight_decay times half the sum of all squares, 0-d, without a gradient."""
    norms = torch._foreach_norm([kernel.detach() for kernel in kernels])
    return weight_decay * 0.5 * torch.stack(list(norms)).square().sum()


def add_decay(kernels: Sequence[nn.Parameter], weight_decay: float) -> None:
    """Add the gradient of `kernel_loss` to the gradients there are."""
    pairs = [(kernel.grad, kernel.detach()) for kernel in kernels if kernel.grad is not None]
    if pairs:
        torch._foreach_add_([grad for grad, _ in pairs], [kernel for _, kernel in pairs], alpha=weight_decay)


def clip_gradients(
    parameters: Sequence[nn.Parameter], mode: str, limit: float, stacked: Collection[nn.Parameter] = ()
) -> Tensor:
    """Clip in place.

    Args:
        stacked: parameters whose rows are each a variable of its own in TensorFlow (fusion weights).
        mode: "variables_then_global": every gradient longer than `limit` is brought to that length, then all of them
            together (google/automl); "norm" (together alone), "value", "agc": timm's; "none".

    Returns:
        The norm of all gradients together, as they came: 0-d.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    before = global_norm(gradients)
    if mode == "variables_then_global":
        _clip_each(_of_variables(parameters, stacked), limit)
        together = global_norm(gradients)
        torch._foreach_mul_(gradients, limit * torch.minimum(1 / together, together.new_tensor(1 / limit)))
    elif mode != "none":
        from timm.utils import dispatch_clip_grad

        dispatch_clip_grad(parameters, limit, mode=mode)
    return before


def _of_variables(parameters: Sequence[nn.Parameter], stacked: Collection[nn.Parameter]) -> list[Tensor]:
    """The gradients as views, one for each variable that TensorFlow has."""
    rows = {id(parameter) for parameter in stacked}
    views: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            views += [*parameter.grad] if id(parameter) in rows else [parameter.grad]
    return views


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, 0-d."""
    return torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(list(gradients)))))


def _clip_each(gradients: list[Tensor], limit: float) -> None:
    norms = torch.stack(list(torch._foreach_norm(gradients))).clamp(min=limit)
    torch._foreach_mul_(gradients, limit)
    torch._foreach_div_(gradients, list(norms.unbind()))
