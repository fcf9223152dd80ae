"""How to compare: what the user chose, checked before long work begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from effdet_model.errors import InputError, unknown_name
from porting.checkpoint.tflite.recover import read_precision
from verify.reference.configuration.official import Hparams

DEFAULT_TOLERANCES = {
    ("float64", True): 1e-9,
    ("float64", False): 1e-9,
    ("float32", True): 1e-5,
    ("float32", False): 5e-5,
}
"""(dtype, isolate) -> largest difference of a layer, relative to its largest absolute reference value.

Rounding alone: at most 6e-15, 6e-15, 1e-6 and 3e-6 over all variants at 128 x 128 with made-up weights.
"""

@dataclass(frozen=True)
class DiffOptions:
    """How to compare.

    Attributes:
        image_size: (height, width); the config's by default.
        images: files that go through the exact preprocessing. noise_seeds: one noise input each; where neither is
            given, a drawn picture and the noise of seed 0.
        dtype: "float32" or "float64" (the proof: what is left is not rounding).
        isolate: feed every PyTorch layer with the reference's own input of that layer.
        tolerance: relative, against the run of the same precision. None: in float32 the multiple of TensorFlow's own
            rounding that `verify.diff.comparison` states, else `DEFAULT_TOLERANCES`.
        variables: "auto" (moving averages where the checkpoint has them), "ema" or "raw".
        reference: "tensorflow", "automl:DIR" (a clone of google/automl), "savedmodel:DIR" or "tflite:FILE".
        overrides: fields of the port's config where the weights' metadata do not say them.
        family: official family of the checkpoint, whose day counts for anchors and preprocessing.
        hparams: what the user declares of the checkpoint: the text of google/automl's --hparams, or its names and
            values.
    """

    image_size: tuple[int, int] | None = None
    images: Sequence[str | Path] = ()
    noise_seeds: Sequence[int] = ()
    dtype: str = "float32"
    isolate: bool = False
    tolerance: float | None = None
    variables: str = "auto"
    reference: str = "tensorflow"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
    hparams: Hparams = None

    @property
    def truth(self) -> Literal["", "run", "layer"]:
        """Whether float64 judges, and of the whole run or of each layer alone (see `ReferenceProcess.open`)."""
        plain = self.dtype != "float32" or self.tolerance is not None or self.reference != "tensorflow"
        return "" if plain else "layer" if self.isolate else "run"

    @property
    def limit(self) -> float:
        """The tolerance of a layer against the run of the same precision."""
        if self.tolerance is not None:
            return self.tolerance
        if self.precision in PRECISION_TOLERANCES:
            return PRECISION_TOLERANCES[self.precision]
        return DEFAULT_TOLERANCES[self.dtype, self.isolate]

    @property
    def precision(self) -> str:
        """Of the kernels in a .tflite file that is the reference: "float32", "float16" or "int8"; "" of others."""
        kind, _, file = self.reference.partition(":")
        return read_precision(Path(file)) if kind == "tflite" else ""


PRECISION_TOLERANCES = {"float16": 5e-3, "int8": 0.5}
"""Kernels of a .tflite file -> largest difference of its outputs, relative to their largest value.

In float16 the heads' kernels are rounded level by level, and one has to stand for all; with int8 every feature is
rounded to 8 bits as well, which weights alone cannot repeat. Measured: at most 7e-4 and 0.44, both of a lite0 with
made-up weights. Neither says that the port is right; the comparison of the tensors does.
"""


def checked(options: DiffOptions) -> tuple[str, Path | None]:
    """The kind of reference, and its folder or file."""
    if options.dtype not in ("float32", "float64"):
        raise unknown_name("dtype", options.dtype, ["float32", "float64"])
    if options.variables not in ("auto", "ema", "raw"):
        raise unknown_name("variables", options.variables, ["auto", "ema", "raw"])
    if options.tolerance is not None and not options.tolerance >= 0:
        raise InputError(f"tolerance: expected a number >= 0, found {options.tolerance}; e.g. 1e-5.")
    kind, separator, folder = options.reference.partition(":")
    if kind not in ("tensorflow", "automl", "savedmodel", "tflite"):
        raise unknown_name("reference", kind, ["tensorflow", "automl:DIR", "savedmodel:DIR", "tflite:FILE"])
    if kind == "tensorflow":
        return kind, None
    if kind == "tflite" and not (separator and Path(folder).is_file()):
        raise InputError(
            f"reference: expected tflite:FILE with a file that exists, found {options.reference!r}; name it."
        )
    if kind != "tflite" and not (separator and Path(folder).is_dir()):
        raise InputError(
            f"reference: expected {kind}:DIR with a folder that exists, found {options.reference!r}; name it."
        )
    if options.dtype != "float32":
        raise InputError(
            f"reference {kind}: expected --dtype float32, the precision it was written for, found "
            f"{options.dtype}; the double-precision proof needs this project's own reference."
        )
    if options.isolate:
        raise InputError(
            f"reference {kind}: expected no --isolate, since it does not give every layer; leave one of them out."
        )
    if kind in ("savedmodel", "tflite"):
        _ = options.precision  # which reads a .tflite file as data, and refuses what is none
        logging.getLogger(__name__).warning(
            "reference %s: %s is a program and will be executed; go on only if you trust who made it.", kind, folder
        )
    return kind, Path(folder)
