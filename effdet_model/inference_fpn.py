"""The feature network as inference runs it: fusion weights are numbers, sizes and padding are settled."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_model.bifpn import BiFpn, FpnCombine, FpnNodeLayer
from effdet_model.config import EfficientDetConfig
from effdet_model.dataflow import Dataflow
from effdet_model.folding import affine, can_fold, fused_conv, in_place
from effdet_model.layers import ConvBnAct2d, ResampleFeatureMap, SeparableConv2d, pool_window
from effdet_model.same_padding import same_padding

Size = tuple[int, int]


class FixedPool(nn.Module):
    """`layers.pool2d` for one size."""

    def __init__(self, kind: str, have: Size, want: Size, pad_type: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.kind = kind
        self.kernel, self.stride, self.padding = pool_window(have, want)
        self.ceil_mode = False
        self.pads: list[int] | None = None
        self.inside: Tensor | None
        self.register_buffer("inside", None)
        if pad_type == "same":
            self._settle(have, dtype)

    def _settle(self, have: Size, dtype: torch.dtype) -> None:
        edges = [same_padding(*values) for values in zip(have, self.kernel, self.stride, strict=True)]
        before = [edge[0] for edge in edges]
        outputs = [-(-size // stride) for size, stride in zip(have, self.stride, strict=True)]
        rounded = [
            math.ceil((size + 2 * pad - kernel) / stride) + 1
            for size, pad, kernel, stride in zip(have, before, self.kernel, self.stride, strict=True)
        ]
        if self.kind == "max" and rounded == outputs:  # windows over the last edge end there, as SAME's do
            self.padding, self.ceil_mode = before, True
            return
        (top, bottom), (left, right) = edges
        self.pads, self.padding = [left, right, top, bottom], [0, 0]
        if self.kind == "avg":
            ones = F.pad(torch.ones(1, 1, *have, dtype=dtype), self.pads)
            self.inside = F.avg_pool2d(ones, self.kernel, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, *have] -> [N, C, *want]."""
        if self.kind == "max":
            if self.pads is not None:
                x = F.pad(x, self.pads, value=float("-inf"))
            return F.max_pool2d(x, self.kernel, self.stride, self.padding, ceil_mode=self.ceil_mode)
        if self.pads is not None:
            x = F.pad(x, self.pads)
        x = F.avg_pool2d(x, self.kernel, self.stride, self.padding, count_include_pad=False)
        return x if self.inside is None else x / self.inside


class FixedResize(nn.Module):
    """Interpolation to one size."""

    def __init__(self, size: Size, mode: str) -> None:
        super().__init__()
        self.size, self.mode = size, mode

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, *size]."""
        if self.mode == "nearest":
            return F.interpolate(x, self.size, mode="nearest")
        return F.interpolate(x, self.size, mode=self.mode, align_corners=False)


class FixedResample(nn.Module):
    """`ResampleFeatureMap` for one size, its output times a number.

    Attributes:
        gain: what the input (`gain_first`) or output is multiplied by, where no convolution could take it in; else 1.
        is_fresh: whether the output is a tensor of its own, which may be written over.
    """

    def __init__(self, steps: list[nn.Module], gain: float, gain_first: bool) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps)
        self.gain, self.gain_first = gain, gain_first
        self.is_fresh = bool(steps)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, *size]."""
        if self.gain != 1.0 and self.gain_first:
            return self.steps(x * self.gain)
        x = self.steps(x)
        return x.mul_(self.gain) if self.gain != 1.0 else x


class FixedCombine(nn.Module):
    """`FpnCombine` for one size; the output is always a tensor of its own.

    Attributes:
        gains: of the inputs as they come out of `resample`; `channel_gains`, [inputs, C, 1, 1], where a node has a
            weight for each channel.
    """

    def __init__(self, terms: list[tuple[int, FixedResample, float]], channel_gains: Tensor | None) -> None:
        super().__init__()
        if channel_gains is None:
            terms = sorted(terms, key=lambda term: not term[1].is_fresh)
        self.inputs_offsets = [offset for offset, _, _ in terms]
        self.resample = nn.ModuleList(resample for _, resample, _ in terms)
        self.gains = [gain for _, _, gain in terms]
        self.first_is_fresh = terms[0][1].is_fresh
        self.channel_gains: Tensor | None
        self.register_buffer("channel_gains", channel_gains)

    def forward(self, feats: list[Tensor]) -> Tensor:
        """Features so far -> [N, fpn_num_filters, *size]."""
        inputs = [resample(feats[at]) for at, resample in zip(self.inputs_offsets, self.resample, strict=True)]
        total, gains = inputs[0], self.gains
        if self.channel_gains is not None:
            total = total * self.channel_gains[0]
            for index, x in enumerate(inputs[1:], 1):
                total.addcmul_(x, self.channel_gains[index])
            return total
        rest = list(zip(inputs[1:], gains[1:], strict=True))
        if not self.first_is_fresh:
            if gains[0] != 1.0 or not rest:
                total = total * gains[0]
            else:
                x, gain = rest.pop(0)
                total = torch.add(total, x, alpha=gain)
        for x, gain in rest:
            total.add_(x, alpha=gain)
        return total


class FixedNode(nn.Module):
    """`FpnNodeLayer` for one size."""

    def __init__(self, combine: FixedCombine, act: nn.Module | None, conv: nn.Module) -> None:
        super().__init__()
        self.combine, self.act, self.conv = combine, act, conv

    def forward(self, feats: list[Tensor]) -> Tensor:
        """Features so far -> this node's [N, fpn_num_filters, *size]."""
        x = self.combine(feats)
        return self.conv(x if self.act is None else self.act(x))


class FixedFpn(nn.Module):
    """`BiFpn` for one image size."""

    def __init__(self, fpn: BiFpn, config: EfficientDetConfig, flow: Dataflow, sizes: list[Size]) -> None:
        super().__init__()
        dtype = next(fpn.parameters()).dtype

        def resample(part: ResampleFeatureMap, name: str, size: Size, gain: float = 1.0) -> FixedResample:
            return fixed_resample(part, flow.sizes[name], size, gain, dtype)

        self.extra = nn.ModuleList(
            resample(part, f"fpn.resample.{key}", sizes[config.min_level + int(key)])
            for key, part in fpn.resample.items()
            if isinstance(part, ResampleFeatureMap)
        )
        self.cells = nn.ModuleList()
        self.outputs: list[list[int]] = []
        cells: Any = fpn.cell
        for number, cell in enumerate(cells):
            nodes = nn.ModuleList()
            for index, node in enumerate(cell.fnode):
                name = f"fpn.cell.{number}.fnode.{index}.combine.resample"
                combine, channel_gains = node.combine, _channel_gains(node.combine)
                gains = _gains(combine)
                terms = []
                for (key, part), offset, gain in zip(
                    combine.resample.items(), combine.inputs_offsets, gains, strict=True
                ):
                    fixed = resample(part, f"{name}.{key}", sizes[node.level], gain)
                    terms.append((offset, fixed, 1.0 if fixed.is_fresh else gain))
                nodes.append(FixedNode(FixedCombine(terms, channel_gains), *_after(node, sizes[node.level])))
            self.cells.append(nodes)
            self.outputs.append(list(cell.outputs))

    def forward(self, feats: list[Tensor]) -> list[Tensor]:
        """Backbone features, finest first -> one [N, fpn_num_filters, h, w] per level."""
        pyramid = list(feats)
        for extra in self.extra:
            pyramid.append(extra(pyramid[-1]))
        cells: Any = self.cells
        for nodes, outputs in zip(cells, self.outputs, strict=True):
            for node in nodes:
                pyramid.append(node(pyramid))
            pyramid = [pyramid[index] for index in outputs]
        return pyramid


def fused_layer(layer: nn.Module, size: Size, norm: nn.Module | None, act: nn.Module | None) -> nn.Module:
    """A `ConvBnAct2d` or `SeparableConv2d` of stride 1 with what follows it.

    Args:
        norm, act: what follows; a norm that is no batch norm stays a layer.
    """
    if isinstance(layer, SeparableConv2d):
        depthwise, last = [fused_conv(layer.conv_dw, size)], layer.conv_pw
    else:
        assert isinstance(layer, ConvBnAct2d)
        depthwise, last = [], layer.conv
    return nn.Sequential(*depthwise, *fused_convs(last, size, norm, act))


def fused_convs(
    conv: nn.Module, size: Size, norm: nn.Module | None, act: nn.Module | None, gain: float = 1.0
) -> list[nn.Module]:
    """A convolution with what follows it as one layer, or as three where the norm is no batch norm."""
    assert can_fold(conv), "convolutions of BiFPN and heads are plain"
    folded = affine(norm)
    if norm is None or folded is not None:
        return [fused_conv(conv, size, folded, in_place(act), gain=gain)]
    kept: list[nn.Module] = [fused_conv(conv, size), copy.deepcopy(norm).eval().requires_grad_(False)]
    last = in_place(act)
    return kept if last is None else [*kept, last]


def fixed_resample(
    part: ResampleFeatureMap, have: Size, want: Size, gain: float, dtype: torch.dtype
) -> FixedResample:
    """A `ResampleFeatureMap` from one size to another, its output times `gain`."""
    shrinks = have[0] > want[0]
    resize: list[nn.Module] = []
    if shrinks and part.downsample_type in ("max", "avg"):
        resize = [FixedPool(part.downsample_type, have, want, part.pad_type, dtype)]
    elif have != want:
        resize = [FixedResize(want, part.downsample_type if shrinks else part.upsample_type)]
    if part.conv is None:
        identity = not resize
        return FixedResample(resize, 1.0 if identity else gain, gain_first=not shrinks)
    assert isinstance(part.conv, ConvBnAct2d)
    after = shrinks and part.conv_after_downsample
    foldable = part.conv.bn is None or affine(part.conv.bn) is not None
    taken = gain if foldable and gain >= 0 else 1.0  # a maximum goes with factors from 0 on
    convs = fused_convs(part.conv.conv, want if after else have, part.conv.bn, part.conv.act, taken)
    steps = [*resize, *convs] if after else [*convs, *resize]
    return FixedResample(steps, gain if taken == 1.0 else 1.0, gain_first=False)


def _gains(combine: FpnCombine) -> list[float]:
    """Fusion weights as numbers; ones where a node has none, or one for each channel."""
    if combine.edge_weights is None or combine.edge_weights.dim() == 2:
        return [1.0] * len(combine.inputs_offsets)
    return combine.normalized_weights(torch.float64).detach().tolist()


def _channel_gains(combine: FpnCombine) -> Tensor | None:
    if combine.edge_weights is None or combine.edge_weights.dim() != 2:
        return None
    return combine.normalized_weights(torch.float64).detach().to(combine.edge_weights.dtype)


def _after(node: FpnNodeLayer, size: Size) -> tuple[nn.Module | None, nn.Module]:
    parts = dict(node.after_combine.named_children())
    layer = parts["conv"]
    assert isinstance(layer, (ConvBnAct2d, SeparableConv2d))
    return in_place(parts.get("act")), fused_layer(layer, size, layer.bn, layer.act)
