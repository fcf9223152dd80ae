"""Less memory for activations: blocks of the backbone are computed again when they are needed."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from effdet_model.efficientdet import EfficientDet
from training.batch_norm import recomputing


def save_activations(model: EfficientDet) -> None:
    """Wrap the blocks of a model's backbone in place; names and values stay."""
    for module in model.backbone.modules():
        if isinstance(getattr(module, "drop_path", None), nn.Module):
            _checkpointed(module)


def _checkpointed(module: nn.Module) -> None:
    forward = module.forward

    def again(*args: Any) -> Any:
        if not module.training:
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=_contexts)

    module.forward = again


def _contexts() -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
    return contextlib.nullcontext(), recomputing()
