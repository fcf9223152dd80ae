"""google/automl's learning rate of a step, in TensorFlow's float32 (`det_model_fn.py`, `tf2/train_lib.py`, 6a54c87)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from verify.reference.trainer.facts import RATE_IS_FOR_BATCH


def learning_rate(tf: Any, settings: Mapping[str, Any], step: int) -> float:
    """The rate of one step, counted from 0.

    Raises:
        ValueError: google/automl has no such schedule.
    """
    batch, first = settings["batch_size"], settings["generation"] == "tf1"
    top = settings["learning_rate"] * batch / RATE_IS_FOR_BATCH
    start = settings["lr_warmup_init"] * (batch / RATE_IS_FOR_BATCH if first else 1.0)
    per_epoch = settings["num_examples_per_epoch"] / batch
    if not first:
        per_epoch = math.floor(per_epoch)
    warmup, end = (int(settings[name] * per_epoch) for name in ("lr_warmup_epoch", "num_epochs"))
    method, now = settings["lr_decay_method"], tf.cast(step, tf.float32)
    if method == "constant":
        return float(tf.constant(top))
    if step < warmup:
        return float(start + now / warmup * (top - start))
    if method == "cosine":
        return float(0.5 * top * (1.0 + tf.cos(math.pi * now / float(end - warmup))))
    if method == "polynomial":
        return float(top * tf.pow(1.0 - now / end, settings["poly_lr_power"]))
    if method == "stepwise":
        drops = [int(settings[name] * per_epoch) for name in ("first_lr_drop_epoch", "second_lr_drop_epoch")]
        return float(tf.constant(top * 0.1 ** sum(step >= drop for drop in drops)))
    raise ValueError(f"google/automl has no lr_decay_method {method!r}")
