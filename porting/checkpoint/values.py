"""Which of a checkpoint's values are the model: decided by what wrote the file, not by what lies in it.

Facts, from how google/automl (6a54c87) restores:

- A TF1 Saver checkpoint is restored from X/ExponentialMovingAverage (`det_model_fn.py`, `inference.py`), and from X
  itself where `moving_average_decay` is 0.
- A TF2 object-based checkpoint is restored into the model's own values (`tf2/util_keras.py restore_ckpt`), whatever
  else it holds. Slots called `average` belong to the optimizer: there are none for batch-norm statistics, or, where
  training began from a TF1 checkpoint, only stale ones.
- An exported SavedModel runs its own variables. The X/ExponentialMovingAverage of the older exporter are never
  assigned and keep random initial values.
- A Keras .h5 file holds each value once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from effdet_model.errors import InputError
from porting.checkpoint.dialects import H5, OBJECT, SAVED_MODEL, TFLITE

Kind = Literal["raw", "ema"]
Choice = Literal["auto", "ema", "raw"]

_OWN_VALUES = {
    OBJECT: "a TensorFlow 2 checkpoint is restored from the model's own values",
    SAVED_MODEL: "a SavedModel runs its own variables",
    H5: "a Keras .h5 file holds each value once",
    TFLITE: "a TFLite file holds each value once",
}
_SHOWN = 3


class _Variable(Protocol):
    @property
    def has_raw(self) -> bool: ...
    @property
    def has_ema(self) -> bool: ...


def meant_kind(
    label: str,
    dialect: str,
    variables: Mapping[str, _Variable],
    needed: Sequence[str],
    choice: Choice = "auto",
    moving_average_decay: float | None = None,
) -> tuple[Kind, str]:
    """Moving averages or raw values, and why, in a part of a sentence.

    Args:
        label: what messages call the checkpoint. dialect: of `porting.checkpoint.dialects`.
        variables: canonical name -> which values the file has. needed: those of the model, all of them in `variables`.
        choice: "auto" as the official code; "ema" and "raw" force.
        moving_average_decay: of --hparams; 0 means that training kept no averages.

    Raises:
        InputError: values of the kind that is meant are not all there.
    """
    if choice == "auto":
        kind, why = _official(dialect, variables, needed, moving_average_decay)
    else:
        kind, why = choice, "asked for"
    what, mark, other = ("moving averages", "X/ExponentialMovingAverage", "raw")
    if kind == "raw":
        what, mark, other = "raw values", "X", "ema"
    absent = [name for name in needed if not (variables[name].has_ema if kind == "ema" else variables[name].has_raw)]
    if absent:
        more = f", and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise InputError(
            f"{label}: expected {what} ({mark}) of all {len(needed)} model variables, found "
            f"{len(needed) - len(absent)}; without: {', '.join(absent[:_SHOWN])}{more}. Use --variables {other}, "
            "if those are what you want."
        )
    return kind, why


def _official(
    dialect: str, variables: Mapping[str, _Variable], needed: Sequence[str], moving_average_decay: float | None
) -> tuple[Kind, str]:
    if dialect in _OWN_VALUES:
        return "raw", _OWN_VALUES[dialect]
    if not any(variables[name].has_ema for name in needed):
        return "raw", "the checkpoint has no moving averages"
    if moving_average_decay is not None and moving_average_decay <= 0:
        return "raw", f"--hparams say moving_average_decay={moving_average_decay:g}"
    return "ema", "a TensorFlow 1 checkpoint of training is evaluated with its moving averages"
