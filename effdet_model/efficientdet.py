"""EfficientDet: a timm backbone, BiFPN, class and box heads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from effdet_model.backbone import channels_first, create_backbone, is_channels_last
from effdet_model.bifpn import BiFpn, Observe
from effdet_model.config import EfficientDetConfig
from effdet_model.fpn_graph import feature_sizes
from effdet_model.heads import HeadNet
from effdet_model.initial_weights import CLASS_PREDICT, initialise_module
from effdet_model.same_padding import spatial_size

if TYPE_CHECKING:
    Observer = Callable[[str, Tensor], Tensor | None]
else:
    Observer = Any  # TorchScript reads annotations, and has no word for functions
"""Called with a layer's stable name and its output [N, C, h, w]; a tensor returned takes the output's place."""


class EfficientDet(nn.Module):
    """One EfficientDet; state_dict keys, shapes and dtypes are those of effdet 0.4.1, and so are the initial weights.

    Training from scratch draws them anew as its recipe says (`effdet_model.initial_weights` has both kinds).

    Attributes:
        config: what it was built from.
    """

    def __init__(self, config: EfficientDetConfig, pretrained_backbone: bool = False) -> None:
        super().__init__()
        self.config = config
        self.backbone = create_backbone(config, pretrained_backbone)
        self.max_level = config.max_level
        self.channels_last_features = is_channels_last(self.backbone)
        feature_info: Any = self.backbone.feature_info
        self.fpn = BiFpn(config, feature_info.channels())
        self.class_net = HeadNet(config, "class_net", config.num_classes)
        self.box_net = HeadNet(config, "box_net", 4)
        for name, module in self.named_modules():
            if not name.startswith("backbone"):
                initialise_module(module, name, "effdet")

    def forward(self, images: Tensor, observe: Observer | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and box regressions of every level.

        Args:
            images: float [N, 3, H, W], normalised; any H and W that all levels can be made from.
            observe: if given, is shown every intermediate result by its stable name, in the order of
                evaluation (`backbone.stem`, `backbone.blocks.3.1`, `fpn.input.level.3`,
                `fpn.cell.0.fnode.2`, `class_net.conv_rep.1.level.4`, `box_net.predict.level.3`), and may
                return a tensor that the following layers get in its place.

        Returns:
            class_outputs: [N, anchors * num_classes, h, w] per level, finest first; channels anchor-major.
            box_outputs: [N, anchors * 4, h, w] per level, each anchor's (ty, tx, th, tw).
            Traces (`torch.jit.trace`, the legacy ONNX exporter) are for one image size, and give tuples, not lists.

        Raises:
            InputError: the image size does not give every level a smaller map than the one before.
        """
        sizes = feature_sizes(spatial_size(images), self.max_level)
        if torch.jit.is_scripting():
            replacing = None
            feats = self.backbone(images)
        else:
            replacing = _replacing(observe) if observe is not None else None
            backbone = self.backbone if replacing is None else _observed_backbone(self.backbone, replacing)
            feats = list(backbone(images))
        if self.channels_last_features:
            feats = [channels_first(feat) for feat in feats]
        feats = self.fpn(feats, sizes, replacing)
        class_outputs, box_outputs = self.class_net(feats, replacing), self.box_net(feats, replacing)
        if not torch.jit.is_scripting():
            if torch.jit.is_tracing():  # a trace has a fixed number of outputs, and warns of lists
                return tuple(class_outputs), tuple(box_outputs)  # type: ignore[return-value]
        return class_outputs, box_outputs

    def reset_class_predict(self) -> None:
        """Give the layer that predicts classes new random weights, as google/automl initialises it.

        Its bias is -log((1 - 0.01) / 0.01): every class begins with a probability of 0.01.
        """
        for name, module in self.class_net.predict.named_modules(prefix=CLASS_PREDICT):
            initialise_module(module, name, "google")

    def forward_intermediates(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """`forward`, and every intermediate result by its stable name."""
        seen: dict[str, Tensor] = {}
        class_outputs, box_outputs = self(images, observe=lambda name, out: seen.__setitem__(name, out))
        return class_outputs, box_outputs, seen


def _replacing(observe: Observer) -> Observe:
    def call(name: str, out: Tensor) -> Tensor:
        replacement = observe(name, out)
        return out if replacement is None else replacement

    return call


class _Observed(nn.Module):
    """A layer whose output an observer sees, and may replace."""

    def __init__(self, layer: nn.Module, name: str, observe: Observe) -> None:
        super().__init__()
        self.layer, self.name, self.observe = layer, name, observe

    def forward(self, *args: Any, **keywords: Any) -> Tensor:
        return self.observe(self.name, self.layer(*args, **keywords))


def _observed_backbone(backbone: nn.Module, observe: Observe) -> nn.Module:
    """A view of an EfficientNet-like backbone that shows stem and blocks; of others, only the features are seen.

    The view shares all layers and changes none of them, so calls from several threads do not see each other, which
    hooks on the layers would.
    """
    parts: Any = backbone
    if not hasattr(backbone, "blocks") or not hasattr(backbone, "bn1"):
        return backbone
    stages: dict[str, nn.Module | None] = {}
    for stage, (key, blocks) in enumerate(parts.blocks.named_children()):
        shown = {
            name: _Observed(block, f"backbone.blocks.{stage}.{i}", observe)
            for i, (name, block) in enumerate(blocks.named_children())
        }
        stages[key] = _view(blocks, shown)
    stem = _Observed(parts.bn1, "backbone.stem", observe)
    return _view(backbone, {"bn1": stem, "blocks": _view(parts.blocks, stages)})


def _view(module: nn.Module, replaced: Mapping[str, nn.Module | None]) -> nn.Module:
    """The same module with other children; what it holds is shared."""
    view = copy.copy(module)
    view._modules = {**module._modules, **replaced}
    return view
