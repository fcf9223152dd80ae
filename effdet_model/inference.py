"""The inference form of a model: the same function for one image size, with less to do.

Batch norms are folded into convolutions (in float64, rounded once), SAME padding and sizes are settled, fusion weights
are numbers, activations and sums work in place. The outputs are those of the model up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effdet_model.backbone import channels_first
from effdet_model.config import EfficientDetConfig
from effdet_model.dataflow import dataflow
from effdet_model.errors import InputError
from effdet_model.folding import fused_conv
from effdet_model.heads import HeadNet
from effdet_model.inference_backbone import fold_backbone
from effdet_model.inference_fpn import FixedFpn, fused_convs, fused_layer
from effdet_model.layers import SeparableConv2d
from effdet_model.same_padding import spatial_size


class FixedHead(nn.Module):
    """`HeadNet` with one last convolution for each level, its batch norm and activation within; depthwise: shared."""

    def __init__(self, head: HeadNet, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.residual = head.residual
        self.depthwise, self.last = nn.ModuleList(), nn.ModuleList()
        convs: Any = head.conv_rep
        for repeat, conv in enumerate(convs):
            separable = isinstance(conv, SeparableConv2d)
            self.depthwise.append(fused_conv(conv.conv_dw, sizes[0]) if separable else nn.Identity())
            levels = nn.ModuleList()
            for place, size in enumerate(sizes):
                norm: Any = head.batch_norm(repeat, place)
                norm = norm.bn if isinstance(norm, nn.Sequential) else norm
                layers = fused_convs(conv.conv_pw if separable else conv.conv, size, norm, head.act)
                levels.append(nn.Sequential(*layers))
            self.last.append(levels)
        self.predict = fused_layer(head.predict, sizes[0], None, None)

    def forward(self, feats: list[Tensor]) -> list[Tensor]:
        """One [N, fpn_num_filters, h, w] per level -> one [N, anchors * outputs, h, w] per level."""
        outputs = []
        last_convs: Any = self.last
        for place, x in enumerate(feats):
            for repeat, (depthwise, last) in enumerate(zip(self.depthwise, last_convs, strict=True)):
                out = last[place](depthwise(x))
                x = out.add_(x) if self.residual and repeat > 0 else out
            outputs.append(self.predict(x))
        return outputs


class InferenceForm(nn.Module):
    """What `inference_form` makes of a model.

    Attributes:
        config: the model's. image_size: (height, width) that it takes.
    """

    def __init__(self, model: Any, image_size: tuple[int, int], extend_kernels: bool) -> None:
        super().__init__()
        config: EfficientDetConfig = model.config
        self.config, self.image_size = config, image_size
        channels = int(dict(config.backbone_args).get("in_chans", 3))
        dtype = next(model.parameters()).dtype
        flow = dataflow(model, torch.empty(1, channels, *image_size, dtype=dtype, device="meta"))
        sizes = config.feature_sizes(image_size)
        self.channels_last_features = model.channels_last_features
        self.backbone = fold_backbone(model.backbone, flow, extend_kernels)
        self.fpn = FixedFpn(model.fpn, config, flow, sizes)
        levels = [sizes[level] for level in config.levels]
        self.class_net, self.box_net = FixedHead(model.class_net, levels), FixedHead(model.box_net, levels)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """`EfficientDet.forward` for float [N, 3, *image_size], normalised: (class_outputs, box_outputs).

        Raises:
            InputError: images of another size.
        """
        height, width = spatial_size(images)
        if (height, width) != self.image_size:
            raise InputError(
                f"inference form: expected images of {self.image_size[0]}x{self.image_size[1]} (height x width), found "
                f"{height}x{width}; make one for that size, inference_form(model, image_size=...)."
            )
        feats = list(self.backbone(images))
        if self.channels_last_features:
            feats = [channels_first(feat) for feat in feats]
        feats = self.fpn(feats)
        class_outputs, box_outputs = self.class_net(feats), self.box_net(feats)
        if torch.jit.is_tracing():  # a trace has a fixed number of outputs, and warns of lists
            return tuple(class_outputs), tuple(box_outputs)  # type: ignore[return-value]
        return class_outputs, box_outputs


def inference_form(
    model: nn.Module, *, image_size: tuple[int, int] | None = None, extend_kernels: bool = True
) -> InferenceForm:
    """The same function as a model's in eval mode, for one image size; the model itself is left as it is.

    Whatever of a timm backbone can't be folded, such as a batch norm over several convolutions, stays a layer. The
    form has the model's device and dtype, holds weights of its own, and is made anew where the model's change.

    Args:
        model: as `create_model` makes it. image_size: (height, width); None: the config's.
        extend_kernels: settle SAME padding with more rows after than before by leading zeros in the kernel, instead of
            padding the input first, which other runtimes make part of the convolution.

    Raises:
        InputError: not such a model, or the image size does not give every level a smaller map.
    """
    if not hasattr(model, "config") or not hasattr(model, "class_net"):
        raise InputError(
            f"inference form: expected a model as create_model makes it, found {type(model).__name__}; pass "
            "create_model(...)."
        )
    config: Any = model.config
    size = image_size or config.image_size
    form = InferenceForm(model, (int(size[0]), int(size[1])), extend_kernels)
    return form.to(memory_format=torch.channels_last)
