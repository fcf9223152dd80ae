"""Convolutions as oneDNN runs them fastest: weights laid out once for one image on one thread, activation within.

The operators are those that torch.compile uses; where a version of torch lacks them, nothing is packed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_model.folding import FusedConv2d

_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], tuple[str, list[float]]]] = {
    nn.SiLU: lambda act: ("swish", []),
    nn.ReLU: lambda act: ("relu", []),
    nn.ReLU6: lambda act: ("hardtanh", [0.0, 6.0]),
    nn.Sigmoid: lambda act: ("sigmoid", []),
    nn.Hardswish: lambda act: ("hardswish", []),
    nn.LeakyReLU: lambda act: ("leaky_relu", [act.negative_slope]),
}


class PackedConv2d(nn.Module):
    """A `FusedConv2d` with its weight in oneDNN's own layout."""

    def __init__(self, conv: FusedConv2d) -> None:
        super().__init__()
        left, right, top, bottom = conv.pads or (0, 0, 0, 0)
        size = [1, conv.weight.shape[1] * conv.groups, conv.size[0] + top + bottom, conv.size[1] + left + right]
        self.pads = conv.pads
        self.options = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.operation = torch.ops.mkldnn._convolution_pointwise.default
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight.contiguous(), *self.options, size)
        self.bias = conv.bias
        known = _ACTIVATIONS.get(type(conv.act)) if conv.act is not None else None
        self.within = ("none", []) if known is None else known(conv.act)
        self.act = conv.act if known is None else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, h', w']."""
        if self.pads is not None:
            x = F.pad(x, self.pads)
        x = self.operation(x, self.weight, self.bias, *self.options, *self.within, "")
        return x if self.act is None else self.act(x)


def can_pack(module: nn.Module) -> bool:
    """Whether a module's convolutions can be packed: float32 on the CPU, with oneDNN in this torch."""
    first = next(module.parameters())
    has_operators = hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    return bool(
        first.device.type == "cpu"
        and first.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and has_operators
    )


def packed(module: nn.Module, threads: int) -> nn.Module:
    """A copy whose `FusedConv2d` are packed for so many threads; the module itself where it can't be."""
    if not can_pack(module):
        return module
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            convs = {id(part): PackedConv2d(part) for part in module.modules() if isinstance(part, FusedConv2d)}
    finally:
        torch.set_num_threads(before)
    return copy.deepcopy(module, convs)  # a part that the memo knows is taken from there
