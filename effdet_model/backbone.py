"""The backbone: any model of timm that gives features at the strides of the pyramid's levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import get_act_layer
from torch import Tensor, nn

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.layers import timm_activation_name
from effdet_model.same_padding import pad_with_integers

_BACKBONE_LEVELS = 5
_BACKBONE_ACTIVATION = {True: "relu6", False: "silu"}
_TIMM_REFUSALS = (RuntimeError, AttributeError, AssertionError, IndexError, KeyError, TypeError, ValueError)


def create_backbone(config: EfficientDetConfig, pretrained: bool = False) -> nn.Module:
    """The timm feature extractor of a config: features of levels `min_level` to at most 5, finest first.

    Raises:
        InputError: timm has no such model, it extracts no features, not those of the levels asked for, or it does
            not take images of the config's size.
    """
    levels = [level for level in config.levels if level <= _BACKBONE_LEVELS]
    if not levels:
        raise InputError(f"min_level: expected at most {_BACKBONE_LEVELS}, found {config.min_level}.")
    name, arguments = _timm_backbone(config)
    if "efficientnet" in name and config.backbone_indices is None:
        return _features(name, tuple(level - 1 for level in levels), pretrained, arguments)
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        arguments.setdefault("img_size", config.image_size)
    indices = config.backbone_indices
    if indices is None:
        with torch.device("meta"):
            indices = _indices(name, levels, _features(name, None, False, arguments))
    if torch.get_default_device().type != "meta":
        with torch.device("meta"):
            _check_features(config, levels[: len(indices)], _features(name, indices, False, arguments))
    return _features(name, indices, pretrained, arguments)


def is_channels_last(backbone: nn.Module) -> bool:
    """Whether a backbone gives its features as [N, h, w, C] (Swin, MambaOut), not [N, C, h, w]."""
    return str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")


def channels_first(feat: Tensor) -> Tensor:
    """[N, h, w, C] -> [N, C, h, w]."""
    return feat.permute(0, 3, 1, 2).contiguous()


def _timm_backbone(config: EfficientDetConfig) -> tuple[str, dict[str, Any]]:
    arguments = dict(config.backbone_args)
    name = config.backbone_name
    if not name.startswith("efficientnet-"):
        return name, arguments
    default = _BACKBONE_ACTIVATION["lite" in name]
    if timm_activation_name(config.act_type) != default:
        arguments["act_layer"] = get_act_layer(timm_activation_name(config.act_type))
    return "tf_" + name.replace("-", "_"), arguments


def _features(
    name: str, indices: tuple[int, ...] | None, pretrained: bool, arguments: dict[str, Any]
) -> nn.Module:
    chosen = {} if indices is None else {"out_indices": indices}
    try:
        backbone = timm.create_model(name, features_only=True, pretrained=pretrained, **chosen, **arguments)
    except _TIMM_REFUSALS as error:
        wanted = "features of every stage" if indices is None else f"features {list(indices)}"
        raise InputError(
            f"backbone {name}: expected {wanted} from timm with arguments {_plain(arguments)}, found: "
            f"{_one_line(error)}; choose another backbone or correct backbone_args."
        ) from error
    return pad_with_integers(backbone)


def _indices(name: str, levels: Sequence[int], backbone: nn.Module) -> tuple[int, ...]:
    """The last feature of each level's stride, counted among all that the model has, not those given by default."""
    info: Any = backbone.feature_info
    reductions = [feature["reduction"] for feature in info.info]
    indices = [max((i for i, r in enumerate(reductions) if r == 2**level), default=-1) for level in levels]
    if -1 in indices:
        raise InputError(
            f"backbone {name}: expected features at strides {[2**level for level in levels]}, found {reductions}; "
            "choose min_level, max_level or backbone_indices to fit."
        )
    return tuple(indices)


def _check_features(config: EfficientDetConfig, levels: Sequence[int], backbone: nn.Module) -> None:
    """Refuse a backbone that does not take the config's images or gives features of other sizes than it says."""
    channels = int(dict(config.backbone_args).get("in_chans", 3))
    info: Any = backbone.feature_info
    sizes = config.feature_sizes()
    height, width = config.image_size
    try:
        with torch.no_grad():
            feats = backbone.eval()(torch.empty(1, channels, height, width))
            if is_channels_last(backbone):
                feats = [channels_first(feat) for feat in feats]
    except _TIMM_REFUSALS as error:
        raise InputError(
            f"backbone {config.backbone_name}: expected one that takes images of {height}x{width} (height x width), "
            f"found: {_one_line(error)}; choose another image_size or backbone."
        ) from error
    for level, feat, count in zip(levels, feats, info.channels(), strict=True):
        expected = [1, count, *sizes[level]]
        near = feat.dim() == 4 and all(
            0.7 <= side / wanted <= 1.4 for side, wanted in zip(feat.shape[-2:], sizes[level], strict=True)
        )  # unpadded stems (Inception) lose a few rows, a neighbouring stride is off by 2
        if not near or feat.shape[1] != count:
            raise InputError(
                f"backbone {config.backbone_name}: expected features {expected} at level {level} of an image of "
                f"{height}x{width}, found {list(feat.shape)}; choose min_level, backbone_indices or another backbone."
            )


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: getattr(value, "__name__", value) for key, value in arguments.items()}


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
