"""TensorFlow's SAME padding from plain integers, and timm's layers that pad so.

timm computes its padding with floating-point division, which compilers turn into expressions that take minutes to
reason about at a second image size, and with arithmetic on tensors while a model is traced.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn


def spatial_size(x: Tensor) -> tuple[int, int]:
    """(height, width) of [..., h, w] as plain numbers, also while a model is traced: a trace is for one size."""
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():
            return _traced_size(x)
    return x.shape[-2], x.shape[-1]


@torch.jit.unused
def _traced_size(x: Tensor) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return int(x.shape[-2]), int(x.shape[-1])


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Rows (or columns) that SAME adds before and after `size` of them."""
    rest = size % stride
    last = stride if rest == 0 else rest
    total = max((kernel - 1) * dilation + 1 - last, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], value: float = 0.0
) -> Tensor:
    """[N, C, h, w] with SAME padding for a window of (height, width) `kernel`, of the given value."""
    height, width = spatial_size(x)
    top, bottom = same_padding(height, kernel[0], stride[0], dilation[0])
    left, right = same_padding(width, kernel[1], stride[1], dilation[1])
    return F.pad(x, [left, right, top, bottom], value=value)


class SameConv2d(Conv2dSame):
    """timm's convolution with SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, ceil(h / stride), ceil(w / stride)]."""
        x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class SameMaxPool2d(MaxPool2dSame):
    """timm's maximum with SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, ceil(h / stride), ceil(w / stride)]."""
        x = pad_same(x, self.kernel_size, self.stride, self.dilation, float("-inf"))
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class SameAvgPool2d(AvgPool2dSame):
    """timm's mean with SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, ceil(h / stride), ceil(w / stride)]."""
        x = pad_same(x, self.kernel_size, self.stride, (1, 1))
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


_OURS: dict[type[nn.Module], type[nn.Module]] = {
    Conv2dSame: SameConv2d,
    MaxPool2dSame: SameMaxPool2d,
    AvgPool2dSame: SameAvgPool2d,
}


def pad_with_integers(module: nn.Module) -> nn.Module:
    """The same module, its SAME-padded layers of timm turned into ours in place: values, names and hooks stay."""
    for part in module.modules():
        if type(part) in _OURS:
            part.__class__ = _OURS[type(part)]
    return module
