"""The moving average of a model's weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.recipes import Recipe

_STATISTICS = ("running_mean", "running_var")


class MovingAverage:
    """Averages of parameters, and of batch norm statistics where the recipe says so; they begin at the model's values.

    After each update: average += (1 - decay) (value - average); a dynamic decay is in float32, as TensorFlow has it.

    Attributes:
        updates: how many there were.
        start_share: what part of the averages is still the values they began with: the product of all decays.
        values: by the names of the model's state_dict, all of them: what is not averaged is the model's own.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.decay, self.dynamic = recipe.ema_decay, recipe.ema_dynamic
        self.first_update = recipe.ema_first_update
        self.updates = 0
        self.start_share = 1.0
        own = model.state_dict()
        self.values: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in own.items()}
        parameters = {name for name, _ in model.named_parameters()}
        self._averaged = [
            name for name, tensor in own.items()
            if tensor.is_floating_point()
            and (name in parameters or (recipe.ema_statistics and name.endswith(_STATISTICS)))
        ]  # fmt: skip
        self._copied = [name for name in own if name not in set(self._averaged)]

    def next_decay(self) -> float:
        """The decay of the next update."""
        if not self.dynamic:
            return self.decay
        count = np.float32(self.first_update + self.updates)
        return float(np.minimum(np.float32(self.decay), (np.float32(1) + count) / (np.float32(10) + count)))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the values that the model has now."""
        decay = self.next_decay()
        own = model.state_dict()
        share = float(np.float32(1) - np.float32(decay)) if self.dynamic else 1.0 - decay
        averages = [self.values[name] for name in self._averaged]
        differences = torch._foreach_sub([own[name] for name in self._averaged], averages)
        torch._foreach_add_(averages, differences, alpha=share)
        for name in self._copied:
            self.values[name].copy_(own[name])
        self.updates += 1
        self.start_share *= decay

    def state_dict(self) -> dict[str, Any]:
        """What has to be saved to go on."""
        return {"values": self.values, "updates": self.updates, "start_share": self.start_share}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name, value in self.values.items():
            value.copy_(state["values"][name])
        self.updates, self.start_share = int(state["updates"]), float(state["start_share"])
