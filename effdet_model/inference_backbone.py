"""A backbone of timm as inference runs it: batch norms and activations within convolutions, padding settled."""

from __future__ import annotations

import copy
from typing import Any

from timm.models import _efficientnet_blocks as timm_blocks
from torch import Tensor, nn

from effdet_model.dataflow import Dataflow
from effdet_model.folding import FusedConv2d, affine, can_fold, fused_conv, in_place


class FusedSqueezeExcite(nn.Module):
    """timm's SqueezeExcite, which multiplies its input in place."""

    def __init__(self, reduce: nn.Module, expand: nn.Module) -> None:
        super().__init__()
        self.reduce, self.expand = reduce, expand

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same, each channel times its gate."""
        return x.mul_(self.expand(self.reduce(x.mean((2, 3), keepdim=True))))


class FusedBlock(nn.Module):
    """A block of EfficientNet: layers one after the other, and the way around them added in place."""

    def __init__(self, layers: list[nn.Module], has_skip: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.has_skip = has_skip

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C', h', w']."""
        out = self.layers(x)
        return out.add_(x) if self.has_skip else out


def fold_backbone(backbone: nn.Module, flow: Dataflow, extend_kernels: bool) -> nn.Module:
    """A copy of a backbone whose convolutions are `FusedConv2d` where its dataflow allows; the rest stays as it is.

    Args:
        flow: of the whole model, names beginning with `backbone.`.
    """
    twin = copy.deepcopy(backbone).eval().requires_grad_(False)
    parts = dict(twin.named_modules())
    for name, conv in parts.items():
        size = flow.sizes.get(f"backbone.{name}")
        if size is None or not can_fold(conv):
            continue
        norm_name = flow.norms.get(f"backbone.{name}", "").removeprefix("backbone.")
        norm = parts.get(norm_name) if norm_name else None
        folded = affine(norm)
        act = in_place(getattr(norm, "act", None)) if folded is not None else None
        fused = fused_conv(conv, size, folded, act, extend_kernels=extend_kernels)
        _replace(twin, name, _with_hooks(fused, conv))
        if norm is not None and folded is not None:
            rest = getattr(norm, "drop", None)
            left = nn.Identity() if rest is None else rest
            _replace(twin, norm_name, _with_hooks(left, norm))
    for name, part in list(twin.named_modules()):
        if type(part) is timm_blocks.SqueezeExcite:
            _replace(twin, name, _squeeze_excite(part))
        elif type(part) in (timm_blocks.InvertedResidual, timm_blocks.DepthwiseSeparableConv):
            block = _block(part)
            if block is not None:
                _replace(twin, name, _with_hooks(block, part))
    return twin


def _squeeze_excite(part: Any) -> nn.Module:
    if _watched(part) or not all(isinstance(conv, FusedConv2d) for conv in (part.conv_reduce, part.conv_expand)):
        return part
    part.conv_reduce.act, part.conv_expand.act = in_place(part.act1), in_place(part.gate)
    return FusedSqueezeExcite(part.conv_reduce, part.conv_expand)


def _block(block: Any) -> nn.Module | None:
    """A `FusedBlock` in a block's place; None where something of it could not be folded."""
    names: tuple[str, ...] = ("conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3")
    if type(block) is timm_blocks.DepthwiseSeparableConv:
        names = ("conv_dw", "bn1", "aa", "se", "conv_pw", "bn2")
    layers = [getattr(block, name) for name in names]
    plain = all(isinstance(part, (FusedConv2d, nn.Identity, FusedSqueezeExcite)) for part in layers)
    watched = any(part._forward_hooks for part in layers)
    if block.conv_s2d is not None or not plain or watched or not isinstance(layers[-2], FusedConv2d):
        return None
    return FusedBlock([part for part in layers if not isinstance(part, nn.Identity)], bool(block.has_skip))


def _watched(part: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in part.modules())


def _with_hooks(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new module with what watches the old one: timm takes some features by hooks."""
    for kind in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
                 "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):  # fmt: skip
        getattr(new, kind).update(getattr(old, kind))
    return new


def _replace(root: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    root.get_submodule(parent)._modules[own] = new
