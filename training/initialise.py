"""Initial weights as the recipe has them."""

from __future__ import annotations

from effdet_model.efficientdet import EfficientDet
from effdet_model.initial_weights import CLASS_PREDICT, initialise_module
from training.recipes import Recipe

WHOLE_CLASS_HEAD = "class_net"


_ALL = ("fpn", "class_net", "box_net")


def initialise(model: EfficientDet, recipe: Recipe, prefixes: tuple[str, ...] = _ALL) -> None:
    """Draw the convolutions anew whose names begin with one of the prefixes.

    Args:
        prefixes: e.g. `(CLASS_PREDICT,)` for the layer that predicts classes alone.
    """
    for name, module in model.named_modules():
        if name.startswith(prefixes):
            initialise_module(module, name, recipe.initial_weights)


__all__ = ["CLASS_PREDICT", "WHOLE_CLASS_HEAD", "initialise"]
