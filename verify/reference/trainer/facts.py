"""What google/automl trains with where nothing else is said, as plain data under its names.

Source: `hparams_config.py`, `det_model_fn.py`, `tf2/train_lib.py`, `utils.py` (6a54c87), read for this. Nothing here
comes from the PyTorch side's recipes; what a user sets otherwise is declared under these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.08,
    "lr_warmup_init": 0.008,
    "lr_warmup_epoch": 1.0,
    "first_lr_drop_epoch": 200.0,
    "second_lr_drop_epoch": 250.0,
    "poly_lr_power": 0.9,
    "lr_decay_method": "cosine",
    "num_epochs": 300,
    "num_examples_per_epoch": 120000,
    "batch_size": 64,
    "clip_gradients_norm": 10.0,
    "moving_average_decay": 0.9998,
    "weight_decay": 4e-5,
    "alpha": 0.25,
    "gamma": 1.5,
    "label_smoothing": 0.0,
    "delta": 0.1,
    "box_loss_weight": 50.0,
    "iou_loss_type": None,
    "iou_loss_weight": 1.0,
    "positives_momentum": None,
    "generation": "tf1",
    "frozen": (),
}
"""`generation` is which of its two trainers: "tf1" or "tf2"; `frozen` names variables that are not trained."""

BATCH_NORM_MOMENTUM = 0.99
MATCH_THRESHOLD = 0.5
SMALLEST_SIDE = 1e-8
RATE_IS_FOR_BATCH = 64
DECAYED = r".*(kernel|weight):0$"
"""Names of the variables whose squares are in the loss."""
ADAM_EPSILON = {"tf1": 1e-8, "tf2": 1e-7}
"""Defaults of `tf.train.AdamOptimizer` and of Keras's Adam."""


def settings(declared: Mapping[str, Any]) -> dict[str, Any]:
    """`SETTINGS` with what was declared.

    Raises:
        KeyError: a name that is none of them.
    """
    for name in declared:
        if name not in SETTINGS:
            raise KeyError(name)
    return {**SETTINGS, **declared}
