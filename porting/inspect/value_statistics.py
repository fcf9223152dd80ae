"""What the values of a model's tensors look like, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Role = Literal["parameter", "gamma", "mean", "variance", "counter"]

DEAD_GAMMA = 1e-8
"""A batch norm's channel with a scale no larger passes nothing on."""


@dataclass(frozen=True)
class Extreme:
    """A value and the tensor that has it."""

    value: float
    name: str


@dataclass
class Statistics:
    """What `add` has seen.

    Attributes:
        tensors, values: how many. parameters: values that training changes (no moving means and variances).
        dtypes: dtype in the file -> how many tensors.
        nan, infinite, negative_variances: tensor -> how many values.
        dead_batch_norms: batch norms whose scales are all 0 or whose variances are all 0: their layer passes
            nothing on, or never saw data. dead_channels: how many channels are so, over all batch norms.
        minimum, maximum, largest_abs: of all finite values; None where there is none.
    """

    tensors: int = 0
    values: int = 0
    parameters: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    nan: dict[str, int] = field(default_factory=dict)
    infinite: dict[str, int] = field(default_factory=dict)
    negative_variances: dict[str, int] = field(default_factory=dict)
    dead_batch_norms: list[str] = field(default_factory=list)
    dead_channels: int = 0
    minimum: Extreme | None = None
    maximum: Extreme | None = None
    largest_abs: Extreme | None = None

    @property
    def plausible(self) -> bool:
        """Whether a trained model can have such values: finite, variances not negative."""
        return not (self.nan or self.infinite or self.negative_variances)

    def add(self, name: str, array: np.ndarray, role: Role, dtype: str | None = None) -> None:
        """Count one tensor.

        Args:
            role: what it is in its layer. dtype: in the file, where the array has another.
        """
        self.tensors += 1
        self.values += array.size
        self.parameters += array.size if role in ("parameter", "gamma") else 0
        self.dtypes[dtype or array.dtype.name] += 1
        if not array.size or array.dtype.kind not in "fiub":
            return
        finite = self._finite(name, array)
        if finite.size:
            self._extremes(name, float(finite.min()), float(finite.max()))
        if role == "variance" and (negative := int((array < 0).sum())):
            self.negative_variances[name] = negative
        if role in ("gamma", "variance"):
            dead = np.abs(array) <= DEAD_GAMMA if role == "gamma" else array == 0
            self.dead_channels += int(dead.sum())
            layer = name.rpartition("/" if "/" in name else ".")[0]
            if dead.all() and layer not in self.dead_batch_norms:
                self.dead_batch_norms.append(layer)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "dtypes": dict(self.dtypes), "plausible": self.plausible}

    def _finite(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f" or np.isfinite(array).all():
            return array
        nan = int(np.isnan(array).sum())
        infinite = int(np.isinf(array).sum())
        self.nan |= {name: nan} if nan else {}
        self.infinite |= {name: infinite} if infinite else {}
        return array[np.isfinite(array)]

    def _extremes(self, name: str, low: float, high: float) -> None:
        if self.minimum is None or low < self.minimum.value:
            self.minimum = Extreme(low, name)
        if self.maximum is None or high > self.maximum.value:
            self.maximum = Extreme(high, name)
        largest = max(abs(low), abs(high))
        if self.largest_abs is None or largest > self.largest_abs.value:
            self.largest_abs = Extreme(largest, name)


def tensorflow_role(name: str) -> Role:
    """The role of a canonical TensorFlow variable."""
    roles: dict[str, Role] = {"gamma": "gamma", "moving_mean": "mean", "moving_variance": "variance"}
    return roles.get(name.rsplit("/", 1)[-1], "parameter")


def pytorch_role(key: str, batch_norms: set[str]) -> Role:
    """The role of a state_dict's tensor; `batch_norms` are the modules that have a running_var."""
    module, _, leaf = key.rpartition(".")
    roles: dict[str, Role] = {"running_mean": "mean", "running_var": "variance", "num_batches_tracked": "counter"}
    if leaf == "weight" and module in batch_norms:
        return "gamma"
    return roles.get(leaf, "parameter")
