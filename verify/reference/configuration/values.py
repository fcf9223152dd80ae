"""Which values of a checkpoint the official code evaluates with, worked out without the converter's own rule.

Facts from google/automl (6a54c87): the TF1 code restores X/ExponentialMovingAverage unless `moving_average_decay` is 0
(`inference.py restore_ckpt`); the TF2 code restores an object-based checkpoint into the model's own values
(`tf2/util_keras.py restore_ckpt`); an exported SavedModel and a Keras .h5 file are their own values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

Kind = Literal["raw", "ema"]
KINDS: Mapping[Kind, str] = {"raw": "raw values", "ema": "moving averages"}

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_AVERAGE = "/ExponentialMovingAverage"


def official_values(
    raw_names: Collection[str], files: Collection[str], hparams: Mapping[str, Any]
) -> tuple[Kind, str]:
    """Raw values or moving averages, and why.

    Args:
        raw_names: every name in the checkpoint, as it stands there.
        files: names of the files it consists of.
        hparams: what the user says of the training, under google/automl's names.
    """
    if any(name.startswith("variables.") for name in files):
        return "raw", "a SavedModel runs its own variables"
    if _OBJECT_GRAPH in raw_names:
        return "raw", "the official code restores a TensorFlow 2 checkpoint into the model's own values"
    if not any(name.endswith(_AVERAGE) for name in raw_names):
        return "raw", "the file has no moving averages"
    if "moving_average_decay" in hparams and not hparams["moving_average_decay"]:
        return "raw", "the training kept no moving averages (moving_average_decay=0)"
    return "ema", "the official code evaluates a TensorFlow 1 checkpoint with them"
