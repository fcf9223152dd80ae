"""Initial weights of BiFPN and heads, as google/automl (efficientdet_arch.py, tf2/efficientdet_keras.py, 6a54c87) draws
them, or as effdet 0.4.1 does. Backbones begin as timm makes them, which for EfficientNets is google/automl's way too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effdet_model.errors import unknown_name

STYLES = ("google", "effdet")
CLASS_PREDICT = "class_net.predict"
"""Where the names of the layer that predicts classes begin."""

_HEADS = ("class_net", "box_net")
_SEPARABLE = (".conv_dw", ".conv_pw")
_STD_OF_CUT_NORMAL = 0.87962566103423978
"""Standard deviation of a normal distribution with what is beyond two of its deviations drawn anew."""


def initialise_module(module: nn.Module, name: str, style: str) -> None:
    """Draw a convolution's weights anew; of other modules nothing is changed.

    Separable convolutions of the heads have a variance of 1 / fan in, others of the heads a deviation of 0.01; BiFPN's
    are uniform after Glorot. Biases are 0, but of the class prediction -log((1 - 0.01) / 0.01): every class begins with
    a probability of 0.01. TensorFlow counts all C channels into the fan in of a depthwise convolution (9 C for 3 x 3),
    effdet the one that each filter sees (9); google/automl cuts its normal distributions at two deviations.

    Args:
        name: of the module in the model, e.g. "class_net.predict.conv_pw".
        style: "google" or "effdet".

    Raises:
        InputError: the style is unknown.
    """
    if style not in STYLES:
        raise unknown_name("style of initial weights", style, STYLES)
    if not isinstance(module, nn.Conv2d):
        return
    fan_in, fan_out = _fans(module, style)
    with torch.no_grad():
        if name.startswith(_HEADS) and name.endswith(_SEPARABLE):
            _variance_scaling(module.weight, fan_in, style)
        elif name.startswith(_HEADS):
            module.weight.normal_(std=0.01)
        else:
            limit = math.sqrt(6.0 / (fan_in + fan_out))
            module.weight.uniform_(-limit, limit)
        if module.bias is not None:
            module.bias.fill_(-math.log((1 - 0.01) / 0.01) if name.startswith(CLASS_PREDICT) else 0.0)


def _fans(convolution: nn.Conv2d, style: str) -> tuple[int, int]:
    """(fan in, fan out) of a convolution [out, in / groups, h, w]."""
    outputs, inputs = convolution.weight.shape[:2]
    area = convolution.weight[0, 0].numel()
    if convolution.groups > 1 and style == "google":  # TensorFlow's kernel is [h, w, C, multiplier]
        return area * convolution.in_channels, area * outputs // convolution.in_channels
    return area * inputs, area * outputs // convolution.groups


def _variance_scaling(weight: Tensor, fan_in: int, style: str) -> None:
    deviation = math.sqrt(1.0 / max(1, fan_in))
    if style == "effdet":
        weight.normal_(std=deviation)
        return
    deviation /= _STD_OF_CUT_NORMAL
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
