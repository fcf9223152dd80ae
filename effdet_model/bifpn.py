"""The feature network: extra pyramid levels, then cells of weighted fusion nodes as a graph says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effdet_model.config import EfficientDetConfig
from effdet_model.fpn_graph import FpnNode, resample_keys
from effdet_model.layers import (
    ConvBnAct2d,
    NormLayer,
    ResampleFeatureMap,
    SeparableConv2d,
    activation,
    norm_factory,
)

if TYPE_CHECKING:
    Observe = Callable[[str, Tensor], Tensor]
else:
    Observe = Any  # TorchScript reads annotations, and has no word for functions
"""Called with a layer's stable name and output; returns what the following layers get."""


def observed(observe: Observe | None, name: str, out: Tensor) -> Tensor:
    """A layer's output, or what an observer puts in its place."""
    if not torch.jit.is_scripting():
        if observe is not None:
            return observe(name, out)
    return out


def _resample(config: EfficientDetConfig, in_channels: int, norm_layer: NormLayer) -> ResampleFeatureMap:
    return ResampleFeatureMap(
        in_channels,
        config.fpn_num_filters,
        pad_type=config.pad_type,
        downsample_type=config.downsample_type,
        upsample_type=config.upsample_type,
        norm_layer=norm_layer,
        apply_bn=config.apply_bn_for_resampling,
        redundant_bias=config.redundant_bias,
        conv_after_downsample=config.conv_after_downsample,
    )


class FpnCombine(nn.Module):
    """Bring a node's inputs to one size and add them up, weighted."""

    def __init__(
        self, config: EfficientDetConfig, node: FpnNode, channels: Sequence[int], norm_layer: NormLayer
    ) -> None:
        super().__init__()
        self.inputs_offsets = node.inputs_offsets
        self.weight_method = node.weight_method
        self.resample = nn.ModuleDict()
        for key, offset in zip(resample_keys(node.inputs_offsets), node.inputs_offsets, strict=True):
            self.resample[key] = _resample(config, channels[offset], norm_layer)
        count = len(node.inputs_offsets)
        self.edge_weights: nn.Parameter | None = None
        if node.weight_method.startswith("channel_"):
            self.edge_weights = nn.Parameter(torch.ones(count, config.fpn_num_filters))
        elif node.weight_method != "sum":
            self.edge_weights = nn.Parameter(torch.ones(count))

    def normalized_weights(self, dtype: torch.dtype) -> Tensor:
        """[inputs] or [inputs, C, 1, 1] fusion weights."""
        edge_weights = self.edge_weights
        assert edge_weights is not None
        raw = edge_weights.to(dtype)
        if self.weight_method in ("attn", "channel_attn"):
            weights = torch.softmax(raw, dim=0)
        else:
            raw = torch.relu(raw)
            weights = raw / (raw.sum(dim=0) + 0.0001)
        return weights[:, :, None, None] if weights.dim() == 2 else weights

    def forward(self, feats: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Features so far, each [N, C_i, h_i, w_i] -> [N, fpn_num_filters, *size]."""
        inputs: list[Tensor] = []
        for offset, resample in zip(self.inputs_offsets, self.resample.values()):  # noqa: B905
            inputs.append(resample(feats[offset], size))
        if self.edge_weights is not None:
            weights = self.normalized_weights(inputs[0].dtype)
            for i in range(len(inputs)):
                inputs[i] = inputs[i] * weights[i]
        total = inputs[0]
        for x in inputs[1:]:
            total = total + x
        return total


class FpnNodeLayer(nn.Module):
    """One node: combine, then activation, convolution, batch norm (or convolution, batch norm, activation)."""

    def __init__(
        self, config: EfficientDetConfig, node: FpnNode, channels: Sequence[int], norm_layer: NormLayer
    ) -> None:
        super().__init__()
        self.level = node.feat_level
        self.combine = FpnCombine(config, node, channels, norm_layer)
        after_act = config.conv_bn_act_pattern
        conv_layer = SeparableConv2d if config.separable_conv else ConvBnAct2d
        self.after_combine = nn.Sequential()
        if not after_act:
            self.after_combine.add_module("act", activation(config.act_type))
        self.after_combine.add_module(
            "conv",
            conv_layer(
                config.fpn_num_filters,
                config.fpn_num_filters,
                3,
                padding=config.pad_type,
                bias=config.redundant_bias and not after_act,
                norm_layer=norm_layer,
                act_type=config.act_type if after_act else None,
            ),
        )

    def forward(self, feats: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Features so far -> this node's [N, fpn_num_filters, *sizes[level]]."""
        return self.after_combine(self.combine(feats, sizes[self.level]))


class BiFpnLayer(nn.Module):
    """One cell: every node of the graph once."""

    def __init__(self, config: EfficientDetConfig, channels: Sequence[int], norm_layer: NormLayer) -> None:
        super().__init__()
        graph = config.fpn_graph()
        self.outputs = tuple(config.num_levels + index for index in graph.output_nodes)
        all_channels = [*channels, *([config.fpn_num_filters] * len(graph.nodes))]
        self.fnode = nn.ModuleList(
            FpnNodeLayer(config, node, all_channels, norm_layer) for node in graph.nodes
        )

    def forward(
        self, feats: list[Tensor], sizes: list[tuple[int, int]], observe: Observe | None = None, name: str = ""
    ) -> list[Tensor]:
        """One feature map per level -> one per level; `sizes[level]` is (height, width)."""
        feats = [feat for feat in feats]
        for index, fnode in enumerate(self.fnode):
            feats.append(observed(observe, f"{name}.fnode.{index}", fnode(feats, sizes)))
        outputs: list[Tensor] = []
        for i in self.outputs:
            outputs.append(feats[i])
        return outputs


class BiFpn(nn.Module):
    """Backbone features -> pyramid features of all levels."""

    def __init__(self, config: EfficientDetConfig, backbone_channels: Sequence[int]) -> None:
        super().__init__()
        self.min_level = config.min_level
        norm_layer = norm_factory(config.norm_layer, dict(config.norm_kwargs), config.fpn_num_filters)
        channels = list(backbone_channels)
        self.resample = nn.ModuleDict()
        for place in range(len(channels), config.num_levels):
            self.resample[str(place)] = _resample(config, channels[-1], norm_layer)
            channels.append(config.fpn_num_filters)
        self.cell = nn.ModuleList()
        for _ in range(config.fpn_cell_repeats):
            self.cell.append(BiFpnLayer(config, channels, norm_layer))
            channels = [config.fpn_num_filters] * config.num_levels

    def forward(
        self, feats: list[Tensor], sizes: list[tuple[int, int]], observe: Observe | None = None
    ) -> list[Tensor]:
        """Backbone features, finest first, each [N, C_i, h_i, w_i] -> one [N, fpn_num_filters, h, w] per level.

        Args:
            sizes: (height, width) of every level from 0 on.
        """
        pyramid: list[Tensor] = []
        for feat in feats:
            pyramid.append(observed(observe, f"fpn.input.level.{self.min_level + len(pyramid)}", feat))
        for extra in self.resample.values():
            level = self.min_level + len(pyramid)
            out = extra(pyramid[-1], sizes[level])
            pyramid.append(observed(observe, f"fpn.input.level.{level}", out))
        for index, cell in enumerate(self.cell):
            pyramid = cell(pyramid, sizes, observe, f"fpn.cell.{index}")
        return pyramid
