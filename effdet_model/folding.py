"""Convolutions as inference runs them: batch norm, scale, padding and activation are part of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_model.same_padding import SameConv2d, same_padding

Affine = tuple[Tensor, Tensor]
"""A normalisation in eval mode as (scale, shift), float64 [C] each."""


class FusedConv2d(nn.Module):
    """A convolution with bias and activation, its padding settled for one input size.

    Attributes:
        pads: zeros added before, (left, right, top, bottom), where the convolution's own symmetric padding is not
            enough; None where it is.
        act: applied in place to the convolution's output; None for none.
        size: (height, width) of the input it was made for.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        pads: tuple[int, int, int, int] | None = None,
        act: nn.Module | None = None,
        size: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.dilation, self.groups, self.pads = stride, padding, dilation, groups, pads
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, h', w']."""
        if self.pads is not None:
            x = F.pad(x, self.pads)
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.act is None else self.act(x)

    def extra_repr(self) -> str:
        """As PyTorch prints a layer."""
        return f"{list(self.weight.shape)}, stride={self.stride}, padding={self.padding}, pads={self.pads}"


def affine(norm: nn.Module | None) -> Affine | None:
    """A batch norm's (scale, shift) by its running statistics; None for any other layer, and for none."""
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    named = "BatchNorm" in type(norm).__name__
    if not named or mean is None or variance is None:
        return None
    scale = 1.0 / torch.sqrt(variance.double() + getattr(norm, "eps"))  # noqa: B009 - a Module knows no eps
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if weight is not None:
        scale = scale * weight.detach().double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.detach().double()


def can_fold(conv: nn.Module) -> bool:
    """Whether `fused_conv` takes this layer: a plain convolution, or a SAME-padded one, that nobody watches."""
    return (
        type(conv) in (nn.Conv2d, SameConv2d)
        and not isinstance(getattr(conv, "padding", ""), str)
        and getattr(conv, "padding_mode", "") == "zeros"
        and not conv._forward_hooks
    )


def fused_conv(
    conv: nn.Module,
    size: tuple[int, int],
    norm: Affine | None = None,
    act: nn.Module | None = None,
    *,
    gain: float = 1.0,
    extend_kernels: bool = True,
) -> FusedConv2d:
    """A convolution with what follows it, computed in float64 and rounded once to the convolution's dtype.

    Args:
        conv: one that `can_fold`. size: (height, width) of its input.
        gain: a number that the output is multiplied by, before the activation.
        extend_kernels: turn SAME padding with more rows after than before into symmetric padding, by leading zeros in
            the kernel, instead of padding the input first.
    """
    assert isinstance(conv, nn.Conv2d) and not isinstance(conv.padding, str)
    dtype = conv.weight.dtype
    weight = conv.weight.detach().double()
    bias = None if conv.bias is None else conv.bias.detach().double()
    if norm is not None:
        scale, shift = norm
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else bias * scale + shift
    weight, bias = weight * gain, None if bias is None else bias * gain
    kernel, stride = _pair(conv.kernel_size), _pair(conv.stride)
    dilation, padding = _pair(conv.dilation), _pair(conv.padding)
    pads = None
    if isinstance(conv, SameConv2d):
        top, bottom = same_padding(size[0], kernel[0], stride[0], dilation[0])
        left, right = same_padding(size[1], kernel[1], stride[1], dilation[1])
        more = ((bottom - top) // dilation[0], (right - left) // dilation[1])
        fits = (bottom - top) % dilation[0] == 0 and (right - left) % dilation[1] == 0
        if fits and (extend_kernels or more == (0, 0)):
            weight = F.pad(weight, [more[1], 0, more[0], 0])
            padding = (bottom, right)
        else:
            pads, padding = (left, right, top, bottom), (0, 0)
    return FusedConv2d(
        weight.to(dtype).contiguous(), None if bias is None else bias.to(dtype), stride, padding, dilation,
        conv.groups, pads, act, size,
    )  # fmt: skip


def in_place(act: nn.Module | None) -> nn.Module | None:
    """A twin of an activation that writes over its input, where it can; None for none."""
    if act is None or isinstance(act, nn.Identity):
        return None
    twin: Any = copy.deepcopy(act).eval().requires_grad_(False)
    if hasattr(twin, "inplace"):
        twin.inplace = True
    return twin


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
