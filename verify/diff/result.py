"""What a layer-by-layer diff found, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Difference:
    """How far one array is from its reference.

    Attributes:
        shape: of the reference, NHWC.
        max_abs: largest absolute difference; infinite where a value is not finite or the shapes differ.
        max_rel: `max_abs` over the largest absolute reference value.
        mean_abs: mean absolute difference.
        mean: mean of the reference.
        cosine: cosine of the angle between both arrays, seen as vectors; NaN where one of them is zero.
        reference_max: largest absolute reference value.
        worst_index: NHWC index of the largest difference.
        reference_value, port_value: both values there.
        tolerance: the largest `max_rel` allowed.
        note: what else is wrong, such as "port has 3 non-finite values"; empty as a rule.
    """

    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    mean_abs: float
    mean: float
    cosine: float
    reference_max: float
    worst_index: tuple[int, ...]
    reference_value: float
    port_value: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the difference is finite and within tolerance."""
        return math.isfinite(self.max_rel) and self.max_rel <= self.tolerance


@dataclass(frozen=True)
class LayerResult:
    """One layer's worst difference over all inputs.

    Attributes:
        name: stable name, e.g. "fpn.cell.0.fnode.2".
        difference: of the input where it is worst.
        input_name: which input that is.
    """

    name: str
    difference: Difference
    input_name: str

    @property
    def ok(self) -> bool:
        """Whether the layer is within tolerance for every input."""
        return self.difference.ok


@dataclass(frozen=True)
class InputResult:
    """One input and the worst that happened on it.

    Attributes:
        name: file name, or "noise-SEED".
        kind: "image" or "noise".
        sha256: of the network's input, float32 [1, 3, H, W] in C order.
        max_abs, max_rel: worst over all layers. worst_layer: where `max_rel` is.
        first_divergent_layer: first layer beyond its tolerance; None when there is none.
    """

    name: str
    kind: str
    sha256: str
    max_abs: float
    max_rel: float
    worst_layer: str
    first_divergent_layer: str | None


@dataclass(frozen=True)
class Cause:
    """A reason for a divergence that the values point to.

    Attributes:
        kind: short key, e.g. "kernel_transposed", "not_recognised".
        summary: one sentence fit for a headline.
        evidence: what was seen that points to it, tensor by tensor.
        try_next: what to do.
    """

    kind: str
    summary: str
    evidence: tuple[str, ...] = ()
    try_next: str = ""


@dataclass(frozen=True)
class DiffResult:
    """A whole diff.

    Attributes:
        variant: e.g. "d0". config: all fields of the config, as plain data.
        source, weights: the files compared, as the user named them.
        variables: "raw" or "ema", what was read from the source.
        reference: "tensorflow", "automl:DIR" or "savedmodel:DIR".
        dtype: "float32" or "float64". isolate: whether every layer got the reference's own input.
        image_size: (height, width).
        tolerance: largest relative difference allowed for a layer.
        layers: in the order of evaluation. inputs: in the order given.
        first_divergent_layer: first layer beyond its tolerance on any input; None when there is none.
        cause: why, where there is a divergence.
        environment: versions, CPU, seeds, checksums of checkpoint and weights; names to text or numbers.
        seconds: time by part, e.g. "reference", "port", "total".
    """

    variant: str
    config: Mapping[str, Any]
    source: str
    weights: str
    variables: str
    reference: str
    dtype: str
    isolate: bool
    image_size: tuple[int, int]
    tolerance: float
    layers: tuple[LayerResult, ...]
    inputs: tuple[InputResult, ...]
    first_divergent_layer: str | None
    cause: Cause | None
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every layer is within tolerance on every input."""
        within = all(layer.ok for layer in self.layers)
        return within and bool(self.layers) and self.first_divergent_layer is None

    @property
    def max_abs(self) -> float:
        """Largest absolute difference of any layer."""
        return max((layer.difference.max_abs for layer in self.layers), default=math.inf)

    @property
    def max_rel(self) -> float:
        """Largest relative difference of any layer."""
        return max((layer.difference.max_rel for layer in self.layers), default=math.inf)

    @property
    def worst_layer(self) -> LayerResult:
        """The layer with the largest relative difference."""
        return max(self.layers, key=lambda layer: layer.difference.max_rel)

    @property
    def verdict(self) -> str:
        """One sentence: same function or not, and where they part."""
        count = len(self.layers)
        how = f"{self.dtype}{', every layer on its own' if self.isolate else ''}"
        if self.passed:
            return (
                f"Same function: {count} of {count} layers within {self.tolerance:g} ({how}); "
                f"largest relative difference {self.max_rel:.2e} at {self.worst_layer.name}."
            )
        bad = sum(not layer.ok for layer in self.layers)
        return (
            f"Not the same function: {bad} of {count} layers beyond {self.tolerance:g} ({how}); "
            f"first at {self.first_divergent_layer}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON: infinite numbers become the largest float, NaN becomes None."""
        layers = [
            {
                "name": layer.name,
                **dataclasses.asdict(layer.difference),
                "ok": layer.ok,
                "input": layer.input_name,
            }
            for layer in self.layers
        ]
        plain = {
            "passed": self.passed,
            "verdict": self.verdict,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "first_divergent_layer": self.first_divergent_layer,
            "cause": dataclasses.asdict(self.cause) if self.cause else None,
            "variant": self.variant,
            "source": self.source,
            "weights": self.weights,
            "variables": self.variables,
            "reference": self.reference,
            "dtype": self.dtype,
            "isolate": self.isolate,
            "image_size": self.image_size,
            "tolerance": self.tolerance,
            "inputs": [dataclasses.asdict(item) for item in self.inputs],
            "layers": layers,
            "environment": dict(self.environment),
            "seconds": dict(self.seconds),
            "config": dict(self.config),
        }
        return _json_ready(plain)

    def write_json(self, path: Path) -> None:
        """Write `diff.json`, whole or not at all."""
        from porting.files import atomic_write

        with atomic_write(path) as temporary:
            text = json.dumps(self.to_json(), indent=1, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(sys.float_info.max, value)
    return value
