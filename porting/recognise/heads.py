"""What the prediction layers' shapes say of classes and anchors, by TensorFlow's names and by PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.fit import Shape

Framework = Literal["tensorflow", "pytorch"]
"""Whose names and axis orders a mapping of shapes has: canonical variables or a state_dict's keys."""

PREDICTIONS: Mapping[Framework, tuple[str, str]] = {
    "tensorflow": ("class_net/class-predict/", "box_net/box-predict/"),
    "pytorch": ("class_net.predict.", "box_net.predict."),
}
"""Classes and boxes: what the names of the layers begin with whose outputs depend on classes and anchors."""

_LEAVES: Mapping[Framework, tuple[str, ...]] = {
    "tensorflow": ("pointwise_kernel", "kernel", "bias"),
    "pytorch": ("conv_pw.bias", "conv.bias"),
}


@dataclass(frozen=True)
class Heads:
    """What the prediction layers' shapes say."""

    num_classes: int
    anchors_per_location: int


def read_heads(shapes: Mapping[str, Shape], framework: Framework) -> Heads:
    """Class count and anchors per location from the prediction layers.

    Raises:
        InputError: a prediction layer is missing, or the two do not fit together; without the file's name.
    """
    outputs = []
    for layer in PREDICTIONS[framework]:
        found = [shapes[layer + leaf][-1] for leaf in _LEAVES[framework] if shapes.get(layer + leaf)]
        if not found:
            raise InputError(
                f"expected an EfficientDet with {layer.rstrip('/.')}, found {len(shapes)} tensors without it; a "
                "backbone alone cannot be ported."
            )
        outputs.append(found[0])
    anchors, left = divmod(outputs[1], 4)
    classes, left_classes = divmod(outputs[0], anchors) if anchors else (0, 1)
    if left or left_classes or not classes:
        raise InputError(
            "expected box-predict outputs = anchors x 4 and class-predict outputs = anchors x classes, found "
            f"{outputs[1]} and {outputs[0]}; the heads do not belong together."
        )
    return Heads(classes, anchors)


def heads_overrides(config: EfficientDetConfig, heads: Heads | None) -> dict[str, Any]:
    """Config fields that give `config` these heads; scales and ratios are assumed where anchors differ."""
    if heads is None:
        return {}
    fields: dict[str, Any] = {}
    if heads.num_classes != config.num_classes:
        fields["num_classes"] = heads.num_classes
    if heads.anchors_per_location != config.anchors_per_location:
        ratios = len(config.aspect_ratios)
        scales, left = divmod(heads.anchors_per_location, ratios)
        if left:
            scales, fields["aspect_ratios"] = heads.anchors_per_location, config.aspect_ratios[:1]
        fields["num_scales"] = scales
    return fields
