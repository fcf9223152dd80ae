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

from verify.evidence.record import Evidence, Verdict
from verify.evidence.seal import sealed
from verify.reference.configuration.config_check import ConfigDifference

APPROXIMATE = 1e-3
"""Relative differences above are no rounding of float32; a looser tolerance was asked for."""


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
        rms_rel: root mean square of the difference over that of the reference. rms_tolerance: the largest allowed.
        own_max_rel, own_rms_rel: how far TensorFlow's own float32 is from the reference; None where the reference is
            of the port's own precision.
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
    rms_rel: float = 0.0
    rms_tolerance: float = math.inf
    own_max_rel: float | None = None
    own_rms_rel: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the difference is finite and within tolerance."""
        return math.isfinite(self.max_rel) and self.max_rel <= self.tolerance and self.rms_rel <= self.rms_tolerance

    @property
    def undecided(self) -> bool:
        """Whether TensorFlow's own float32 strays so far that what is allowed is as large as the layer itself."""
        return self.own_rms_rel is not None and not self.rms_tolerance < 1

    @property
    def excess(self) -> float:
        """How many times what is allowed; for sorting."""
        shares = [
            0.0 if value == 0 else math.inf if allowed == 0 or math.isnan(value) else value / allowed
            for value, allowed in ((self.max_rel, self.tolerance), (self.rms_rel, self.rms_tolerance))
        ]
        return math.inf if any(map(math.isnan, shares)) else max(shares)


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

    @property
    def undecided(self) -> bool:
        """Whether float32 cannot tell on some input."""
        return self.difference.undecided


@dataclass(frozen=True)
class InputResult:
    """One input and the worst that happened on it.

    Attributes:
        name: file name, or "noise-SEED".
        kind: "image" or "noise".
        sha256: of the network's input, float32 [1, 3, H, W] in C order. file_sha256: of an image's file, else "".
        max_abs, max_rel: worst over all layers. worst_layer: the one nearest to its tolerance, or furthest beyond.
        first_divergent_layer: first layer beyond its tolerance; None when there is none.
    """

    name: str
    kind: str
    sha256: str
    max_abs: float
    max_rel: float
    worst_layer: str
    first_divergent_layer: str | None
    file_sha256: str = ""


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
class TensorDifference:
    """A tensor of the state_dict that is not what TensorFlow used in its place.

    Attributes:
        key: of the state_dict. variable: TensorFlow's name, or several joined by ", "; empty where there is none.
        index: of the worst value, in PyTorch's axes. reference, port: both values there.
        count: how many values differ.
        reason: in words.
    """

    key: str
    variable: str
    index: tuple[int, ...]
    reference: float
    port: float
    count: int
    reason: str


@dataclass(frozen=True)
class TensorProof:
    """Every value of the state_dict against the variable that the reference used at the same place.

    Attributes:
        compared, equal: numbers of values.
        differing: tensors that are not equal to the bit, or have no counterpart.
        not_compared: key -> why nothing is to be compared.
        unused_variables: of the checkpoint, that the reference did not use.
    """

    compared: int
    equal: int
    differing: tuple[TensorDifference, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)
    unused_variables: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all values are equal and nothing is left over on either side."""
        return self.compared > 0 and self.equal == self.compared and not self.differing and not self.unused_variables

    @property
    def text(self) -> str:
        """Equal values of all compared, e.g. "3,913,139 of 3,913,139 values equal"."""
        return f"{self.equal:,} of {self.compared:,} values equal"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "not_compared": dict(self.not_compared), "ok": self.ok}


@dataclass(frozen=True)
class DiffResult:
    """A whole diff.

    Attributes:
        variant: e.g. "d0". config: all fields of the config, as plain data.
        source, weights: the files compared, as the user named them.
        variables: "raw" or "ema", what was read from the source.
        reference: "tensorflow", "automl:DIR", "savedmodel:DIR" or "tflite:FILE".
        dtype: "float32" or "float64". isolate: whether every layer got the reference's own input.
        image_size: (height, width).
        tolerance: largest relative difference allowed for a layer; None: a multiple of TensorFlow's own rounding,
            layer by layer.
        layers: in the order of evaluation. inputs: in the order given.
        first_divergent_layer: first layer beyond its tolerance on any input; None when there is none.
        cause: why, where there is a divergence.
        environment: versions, CPU, seeds, checksums of checkpoint and weights; names to text or numbers.
        seconds: time by part, e.g. "reference", "port", "total".
        config_differences: between the reference's own configuration and the port's; declared ones do not fail.
        tensors: the direct proof of the values; None is no proof.
        reference_config: what the reference was configured with.
        notes: what a reader should know, in sentences.
        evidence: the record of what this proves; None of a model in memory.
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
    tolerance: float | None
    layers: tuple[LayerResult, ...]
    inputs: tuple[InputResult, ...]
    first_divergent_layer: str | None
    cause: Cause | None
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    config_differences: tuple[ConfigDifference, ...] = ()
    tensors: TensorProof | None = None
    reference_config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = None

    @property
    def undeclared(self) -> tuple[ConfigDifference, ...]:
        """The differences of configuration that fail."""
        return tuple(difference for difference in self.config_differences if not difference.declared)

    @property
    def same_layers(self) -> bool:
        """Whether every layer is within what is allowed on every input."""
        return bool(self.layers) and all(layer.ok for layer in self.layers) and self.first_divergent_layer is None

    @property
    def undecided(self) -> tuple[LayerResult, ...]:
        """Layers at which float32 cannot tell."""
        return tuple(layer for layer in self.layers if layer.undecided)

    @property
    def sound(self) -> bool:
        """Whether nothing was found wrong."""
        return self.same_layers and not self.undeclared and self.tensors is not None and self.tensors.ok

    @property
    def inconclusive(self) -> bool:
        """Whether nothing was found wrong, but something could have hidden."""
        return self.sound and bool(self.undecided)

    @property
    def passed(self) -> bool:
        """Whether configuration, tensors and layers are all proved the same."""
        return self.sound and not self.undecided

    @property
    def outcome(self) -> Verdict:
        """The verdict in one word."""
        return "passed" if self.passed else "inconclusive" if self.inconclusive else "failed"

    @property
    def max_abs(self) -> float:
        """Largest absolute difference of any layer on any input."""
        found = [layer.difference.max_abs for layer in self.layers] + [item.max_abs for item in self.inputs]
        return max(found) if self.layers else math.inf

    @property
    def max_rel(self) -> float:
        """Largest relative difference of any layer on any input."""
        found = [layer.difference.max_rel for layer in self.layers] + [item.max_rel for item in self.inputs]
        return max(found) if self.layers else math.inf

    @property
    def worst_layer(self) -> LayerResult:
        """The layer that is nearest to what is allowed, or furthest beyond."""
        return max(self.layers, key=lambda layer: layer.difference.excess)

    @property
    def allowed(self) -> str:
        """What layers are held to, in words that follow "within" or "beyond"."""
        return "TensorFlow's own rounding" if self.tolerance is None else f"{self.tolerance:g}"

    @property
    def verdict(self) -> str:
        """One sentence: same function or not, and where they part."""
        count = len(self.layers)
        how = f"{self.dtype}{', every layer on its own' if self.isolate else ''}"
        values = self.tensors.text if self.tensors else "tensors not compared"
        if self.inconclusive:
            return (
                f"INCONCLUSIVE: with these weights float32 strays too far in TensorFlow itself to tell at "
                f"{len(self.undecided)} of {count} layers, first at {self.undecided[0].name}; {values}. Run again "
                "with --dtype float64."
            )
        if self.passed:
            worst = self.worst_layer
            largest = f"largest relative difference {self.max_rel:.2e} at {worst.name}"
            if self.tolerance is None:
                largest = f"at most {worst.difference.excess:.0%} of what is allowed, at {worst.name}"
            close = self.max_rel <= APPROXIMATE
            same = "Same function" if close else "The same tensors, approximately the same function"
            return f"{same}: {count} of {count} layers within {self.allowed} ({how}); {largest}; {values}."
        if self.same_layers:
            return f"Not the same: {self._outside_layers(values)}; {count} of {count} layers within {self.allowed}."
        if not self.layers:
            return f"Not the same: {self._outside_layers(values)}; no layer could be compared."
        bad = sum(not layer.ok for layer in self.layers)
        other = self._outside_layers(values)
        return (
            f"Not the same function: {bad} of {count} layers beyond {self.allowed} ({how}); "
            f"first at {self.first_divergent_layer}{f'; {other}' if other else ''}."
        )

    def _outside_layers(self, values: str) -> str:
        """What is wrong with configuration and tensors."""
        parts = []
        if self.undeclared:
            parts.append(f"configuration differs in {', '.join(item.field for item in self.undeclared)}")
        if self.tensors is None or not self.tensors.ok:
            first = self.tensors.differing[0].key if self.tensors and self.tensors.differing else ""
            parts.append(f"{values}{f', first {first}' if first else ''}")
        return "; ".join(parts)

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
            "inconclusive": self.inconclusive,
            "judged_by": "TensorFlow's float64 and its own rounding" if self.tolerance is None else "tolerance",
            "verdict": self.verdict,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "first_divergent_layer": self.first_divergent_layer,
            "cause": dataclasses.asdict(self.cause) if self.cause else None,
            "config_differences": [dataclasses.asdict(item) for item in self.config_differences],
            "tensors": self.tensors.to_json() if self.tensors else None,
            "notes": self.notes,
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
            "reference_config": dict(self.reference_config),
        }
        return sealed(_json_ready(plain), self.evidence, self.outcome)

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
