"""Building blocks of BiFPN and heads. Attribute names are those of effdet 0.4.1, so that weights move both ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GroupNorm, create_conv2d, get_act_layer, get_norm_layer
from torch import Tensor, nn

from effdet_model.errors import InputError
from effdet_model.same_padding import pad_with_integers, same_padding, spatial_size

NormLayer = Callable[[int], nn.Module]

_NORM_LAYERS = ("batchnorm2d", "frozenbatchnorm2d", "groupnorm", "layernorm2d")
_TIMM_ACTIVATION = {"swish": "silu", "swish_native": "silu", "hswish": "hard_swish"}


def activation(name: str) -> nn.Module:
    """The activation that google/automl or timm calls `name`; never in place, so that layers can be observed."""
    if name == "silu" or _TIMM_ACTIVATION.get(name) == "silu":
        return nn.SiLU()
    return get_act_layer(_TIMM_ACTIVATION.get(name, name))()


def timm_activation_name(name: str) -> str:
    """What timm calls google/automl's activation `name`."""
    return _TIMM_ACTIVATION.get(name, name)


def norm_factory(name: str, kwargs: dict[str, Any], channels: int) -> NormLayer:
    """A function channels -> normalisation layer, e.g. timm's "batchnorm2d", "groupnorm", "frozenbatchnorm2d".

    Args:
        channels: of the features [N, channels, h, w] that the layer must take.

    Raises:
        InputError: timm has no such layer, or none that takes these arguments and features.
    """
    try:
        layer = get_norm_layer(name)
    except KeyError:
        layer = None
    if layer is None:
        raise InputError(
            f"norm_layer: expected a normalisation layer of timm such as {', '.join(_NORM_LAYERS)}, found {name!r}."
        )
    groups = kwargs.get("num_groups", 32)
    if layer is GroupNorm and channels % groups:
        fitting = [number for number in range(1, channels + 1) if channels % number == 0]
        nearest = min(fitting, key=lambda number: (abs(number - groups), number))
        default = "" if "num_groups" in kwargs else " (the default)"
        raise InputError(
            f"norm_layer groupnorm: expected a num_groups that divides the {channels} channels of fpn_num_filters, "
            f"found {groups}{default}; set norm_kwargs={{'num_groups': {nearest}}}."
        )
    factory = partial(layer, **kwargs)
    try:
        with torch.device("meta"), torch.no_grad():
            feat = torch.empty(1, channels, channels + 1, channels + 1)  # so that no other axis has as many
            fits = factory(channels).eval()(feat).shape == feat.shape
        problem = "features of another shape"
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        fits, problem = False, " ".join(str(error).split())[:200]
    if not fits:
        raise InputError(
            f"norm_layer: expected a normalisation layer of timm that takes norm_kwargs {kwargs} and features [N, "
            f"{channels}, h, w], found {name!r}: {problem}; choose e.g. {' or '.join(_NORM_LAYERS)}."
        )
    return factory


def _convolution(in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Module:
    return pad_with_integers(create_conv2d(in_channels, out_channels, kernel_size, **options))


class ConvBnAct2d(nn.Module):
    """Convolution, optional normalisation, optional activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: str,
        bias: bool,
        norm_layer: NormLayer | None,
        act_type: str | None = None,
    ) -> None:
        super().__init__()
        self.conv = _convolution(in_channels, out_channels, kernel_size, padding=padding, bias=bias)
        self.bn = norm_layer(out_channels) if norm_layer else None
        self.act = activation(act_type) if act_type else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, h, w]."""
        x = self.conv(x)
        x = self.bn(x) if self.bn is not None else x
        return self.act(x) if self.act is not None else x


class SeparableConv2d(nn.Module):
    """Depthwise then pointwise convolution, optional normalisation, optional activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: str,
        bias: bool,
        norm_layer: NormLayer | None,
        act_type: str | None = None,
    ) -> None:
        super().__init__()
        self.conv_dw = _convolution(in_channels, in_channels, kernel_size, padding=padding, depthwise=True)
        self.conv_pw = _convolution(in_channels, out_channels, 1, padding=padding, bias=bias)
        self.bn = norm_layer(out_channels) if norm_layer else None
        self.act = activation(act_type) if act_type else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, h, w]."""
        x = self.conv_pw(self.conv_dw(x))
        x = self.bn(x) if self.bn is not None else x
        return self.act(x) if self.act is not None else x


class DropConnect(nn.Module):
    """In training, images at random whose residual branch is left out, and the others made larger in turn.

    Attributes:
        survival_prob: the share that is kept; 1 keeps all.
    """

    def __init__(self, survival_prob: float) -> None:
        super().__init__()
        self.survival_prob = survival_prob

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> the same shape."""
        if not self.training or self.survival_prob >= 1.0:
            return x
        kept = torch.empty([x.shape[0], 1, 1, 1], dtype=x.dtype, device=x.device).bernoulli_(self.survival_prob)
        return x / self.survival_prob * kept


def pool2d(x: Tensor, kind: str, size: tuple[int, int], pad_type: str) -> Tensor:
    """Pool [N, C, h, w] down to about `size` with stride s = (h - 1) // size + 1 and window s + 1 (google/automl).

    Args:
        kind: "max" or "avg"; the latter leaves padding out of the mean, as TensorFlow does.
        pad_type: "same" for TensorFlow's SAME, "" for symmetric padding.
    """
    height, width = spatial_size(x)
    kernel, stride, padding = pool_window((height, width), size)
    if pad_type != "same":
        if kind == "max":
            return F.max_pool2d(x, kernel, stride, padding)
        return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)
    top, bottom = same_padding(height, kernel[0], stride[0])
    left, right = same_padding(width, kernel[1], stride[1])
    pads = [left, right, top, bottom]
    if kind == "max":
        return F.max_pool2d(F.pad(x, pads, value=float("-inf")), kernel, stride)
    inside = F.pad(torch.ones_like(x[:1, :1]), pads)
    return F.avg_pool2d(F.pad(x, pads), kernel, stride) / F.avg_pool2d(inside, kernel, stride)


def pool_window(have: tuple[int, int], want: tuple[int, int]) -> tuple[list[int], list[int], list[int]]:
    """(window, stride, symmetric padding), each (height, width), that bring a size down to about another."""
    stride = [_stride(have[0], want[0]), _stride(have[1], want[1])]
    kernel = [stride[0] + 1, stride[1] + 1]
    return kernel, stride, [(stride[0] - 1 + kernel[0] - 1) // 2, (stride[1] - 1 + kernel[1] - 1) // 2]


def _stride(have: int, want: int) -> int:
    """(have - 1) // want + 1, counted up: a plain number also where a compiler knows sizes by symbols only."""
    stride = 1
    while stride * want < have:
        stride += 1
    return stride


class ResampleFeatureMap(nn.Module):
    """Bring features to a level's channels and size: 1 x 1 convolution where channels differ, then pool or enlarge."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        pad_type: str,
        downsample_type: str,
        upsample_type: str,
        norm_layer: NormLayer,
        apply_bn: bool,
        redundant_bias: bool,
        conv_after_downsample: bool,
    ) -> None:
        super().__init__()
        self.pad_type = pad_type
        self.downsample_type = downsample_type
        self.upsample_type = upsample_type
        self.conv_after_downsample = conv_after_downsample
        self.conv: nn.Module | None = None
        if in_channels != out_channels:
            self.conv = ConvBnAct2d(
                in_channels,
                out_channels,
                1,
                padding=pad_type,
                bias=redundant_bias or not apply_bn,
                norm_layer=norm_layer if apply_bn else None,
            )

    def _maybe_conv(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.conv is not None else x

    def _shrink(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.downsample_type in ("max", "avg"):
            return pool2d(x, self.downsample_type, size, self.pad_type)
        return _interpolate(x, size, self.downsample_type)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[N, in_channels, h, w] -> [N, out_channels, *size].

        Raises:
            InputError: one side would shrink and the other not (google/automl refuses that as well).
        """
        height, width = spatial_size(x)
        if height > size[0] and width > size[1]:
            if self.conv_after_downsample:
                return self._maybe_conv(self._shrink(x, size))
            return self._shrink(self._maybe_conv(x), size)
        if height > size[0] or width > size[1]:
            raise InputError(
                f"image size: features of {height} x {width} cannot become {size[0]} x {size[1]}: expected both "
                "sides to shrink or neither; choose a larger or less elongated image size, or fewer levels."
            )
        x = self._maybe_conv(x)
        return _interpolate(x, size, self.upsample_type) if (height, width) != size else x


def _interpolate(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest")
    return F.interpolate(x, size, mode=mode, align_corners=False)
