"""Class and box heads: convolutions shared by all levels, a batch norm for each repeat and level."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from effdet_model.bifpn import Observe, observed
from effdet_model.config import EfficientDetConfig
from effdet_model.layers import ConvBnAct2d, DropConnect, SeparableConv2d, activation, norm_factory


class HeadNet(nn.Module):
    """One head.

    `conv_rep` holds the shared convolutions; `bn_rep[repeat][level].bn` the batch norms, or, with
    `head_bn_level_first`, `bn_rep[level][repeat]` (effdet's layout for its own later models).
    """

    def __init__(self, config: EfficientDetConfig, name: str, num_outputs: int) -> None:
        super().__init__()
        self.name = name
        self.levels = tuple(config.levels)
        self.level_first = config.head_bn_level_first
        self.residual = bool(config.survival_prob)
        self.drop_connect = DropConnect(config.survival_prob or 1.0)
        norm_layer = norm_factory(config.norm_layer, dict(config.norm_kwargs), config.fpn_num_filters)
        conv_layer = SeparableConv2d if config.separable_conv else ConvBnAct2d
        filters, repeats = config.fpn_num_filters, config.box_class_repeats
        self.conv_rep = nn.ModuleList(
            conv_layer(
                filters, filters, 3, padding=config.pad_type, bias=config.redundant_bias, norm_layer=None
            )
            for _ in range(repeats)
        )
        self.bn_rep: Any = nn.ModuleList()  # of lists, which nothing but Any says
        if self.level_first:
            for _ in self.levels:
                self.bn_rep.append(nn.ModuleList(norm_layer(filters) for _ in range(repeats)))
        else:
            for _ in range(repeats):
                self.bn_rep.append(
                    nn.ModuleList(nn.Sequential(OrderedDict(bn=norm_layer(filters))) for _ in self.levels)
                )
        self.act = activation(config.head_act_type or config.act_type)
        self.predict = conv_layer(
            filters,
            num_outputs * config.anchors_per_location,
            3,
            padding=config.pad_type,
            bias=True,
            norm_layer=None,
        )

    def batch_norm(self, repeat: int, place: int) -> nn.Module:
        """The batch norm of a repeat at a level, levels counted from 0."""
        return self.bn_rep[place][repeat] if self.level_first else self.bn_rep[repeat][place]

    def forward(self, feats: list[Tensor], observe: Observe | None = None) -> list[Tensor]:
        """One [N, fpn_num_filters, h, w] per level -> one [N, anchors * outputs, h, w] per level."""
        if torch.jit.is_scripting():
            return self._scripted(feats)
        return self._level_by_level(feats, observe)

    @torch.jit.unused
    def _level_by_level(self, feats: list[Tensor], observe: Observe | None) -> list[Tensor]:
        outputs = []
        for place, (level, x) in enumerate(zip(self.levels, feats, strict=True)):
            for repeat, conv in enumerate(self.conv_rep):
                out = self._act(self.batch_norm(repeat, place)(conv(x)), x, repeat)
                x = observed(observe, f"{self.name}.conv_rep.{repeat}.level.{level}", out)
            outputs.append(observed(observe, f"{self.name}.predict.level.{level}", self.predict(x)))
        return outputs

    def _scripted(self, feats: list[Tensor]) -> list[Tensor]:
        """The same in the order that batch norms are kept in: TorchScript cannot pick one by a variable."""
        if self.level_first:
            outputs: list[Tensor] = []
            for place, norms in enumerate(self.bn_rep):
                x = feats[place]
                for repeat, (conv, norm) in enumerate(zip(self.conv_rep, norms)):  # noqa: B905
                    x = self._act(norm(conv(x)), x, repeat)
                outputs.append(self.predict(x))
            return outputs
        feats = [x for x in feats]
        for repeat, (conv, norms) in enumerate(zip(self.conv_rep, self.bn_rep)):  # noqa: B905
            for place, norm in enumerate(norms):
                feats[place] = self._act(norm(conv(feats[place])), feats[place], repeat)
        return [self.predict(x) for x in feats]

    def _act(self, x: Tensor, before: Tensor, repeat: int) -> Tensor:
        """The activation, and with `survival_prob` the way around the convolution, from the second on."""
        x = self.act(x)
        return self.drop_connect(x) + before if self.residual and repeat > 0 else x
