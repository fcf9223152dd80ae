"""Drop path of the backbone: blocks that are left out of training at random."""

from __future__ import annotations

from timm.layers import DropPath
from torch import nn

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from training.recipes import Recipe

_WITHOUT = ("efficientnet-b0",)
"""efficientdet_arch.py (6a54c87) looks for "b0" in the name, which "efficientnet-lite0" has not."""
_GOOGLE_RATE = 0.2


def apply_drop_path(backbone: nn.Module, config: EfficientDetConfig, recipe: Recipe) -> None:
    """Give every block of a backbone its rate: the recipe's times the share of blocks before it.

    Raises:
        InputError: a rate is asked for, and the backbone has no blocks that could be left out.
    """
    if recipe.drop_path == "model":
        return
    rate = drop_path_rate(config, recipe)
    blocks = [module for module in backbone.modules() if isinstance(getattr(module, "drop_path", None), nn.Module)]
    if rate and not blocks and recipe.drop_path != "google":
        raise InputError(
            f"drop_path: expected 0 for backbone {config.backbone_name}, whose blocks cannot be left out, found "
            f"{rate:g}; set it to 0."
        )
    for index, block in enumerate(blocks):
        part = rate * index / len(blocks)
        block.drop_path = DropPath(part) if part else nn.Identity()


def drop_path_rate(config: EfficientDetConfig, recipe: Recipe) -> float:
    """The rate of the deepest block, about; google/automl: none for b0, 1 - 0.8 for all others, lite0 too."""
    if recipe.drop_path == "google":
        return 0.0 if config.backbone_name in _WITHOUT else _GOOGLE_RATE
    if recipe.drop_path == "model":
        return float(config.backbone_args.get("drop_path_rate", 0.0))
    return float(recipe.drop_path)
