"""Learning rates: google/automl's per step (det_model_fn.py, tf2/train_lib.py, 6a54c87), timm's per epoch for effdet.

google/automl computes them in float32; so does this, since the last steps of a cosine are what rounding leaves of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from effdet_model.errors import InputError, shown, unknown_name

METHODS = ("constant", "cosine", "polynomial", "stepwise")
GENERATIONS = ("tf1", "tf2")
_BATCH_SIZE_OF_RATE = 64
"""google/automl gives learning rates for this many images a step."""


def learning_rate(
    step: int,
    method: str = "cosine",
    batch_size: int = 64,
    epochs: float = 300,
    examples: int = 120000,
    *,
    learning_rate: float = 0.08,
    lr_warmup_init: float = 0.008,
    lr_warmup_epoch: float = 1.0,
    first_lr_drop_epoch: float = 200.0,
    second_lr_drop_epoch: float = 250.0,
    poly_lr_power: float = 0.9,
    generation: str = "tf1",
) -> float:
    """google/automl's learning rate at a step from 0 on. It grows with the batch size.

    After warm-up the cosine is not shifted: it goes over all steps but those of the warm-up, counted from step 0.

    Args:
        step: steps done before this one.
        method: "cosine", "stepwise", "polynomial" or "constant" (without warm-up).
        batch_size: images of one step, over all processes.
        epochs: of the whole training.
        examples: images of one epoch.
        learning_rate, lr_warmup_init: for 64 images a step.
        generation: "tf1" scales `lr_warmup_init` with the batch size and counts parts of steps in an epoch; "tf2" does
            neither.

    Raises:
        InputError: a name is unknown, or the numbers make no schedule.
    """
    if method not in METHODS:
        raise unknown_name("learning rate method", method, METHODS)
    if generation not in GENERATIONS:
        raise unknown_name("generation of google/automl", generation, GENERATIONS)
    numbers = {
        "step": step, "learning_rate": learning_rate, "lr_warmup_init": lr_warmup_init,
        "lr_warmup_epoch": lr_warmup_epoch, "first_lr_drop_epoch": first_lr_drop_epoch,
        "second_lr_drop_epoch": second_lr_drop_epoch, "poly_lr_power": poly_lr_power,
    }
    _check(numbers, 0)
    _check({"batch_size": batch_size, "epochs": epochs, "examples": examples}, 1)
    steps_per_epoch = examples / batch_size if generation == "tf1" else examples // batch_size
    top = learning_rate * batch_size / _BATCH_SIZE_OF_RATE
    if method == "constant":
        return float(np.float32(top))
    start = lr_warmup_init * batch_size / _BATCH_SIZE_OF_RATE if generation == "tf1" else lr_warmup_init
    warmup_steps, total_steps = int(lr_warmup_epoch * steps_per_epoch), int(epochs * steps_per_epoch)
    if total_steps <= warmup_steps:
        raise InputError(
            f"learning rate: expected more steps than warm-up has, found {total_steps} steps of {batch_size} images in "
            f"{epochs:g} epochs with {warmup_steps} of warm-up; train longer, or shorten the warm-up."
        )
    now = np.float32(step)
    if step < warmup_steps:
        return float(np.float32(start) + now / np.float32(warmup_steps) * np.float32(top - start))
    if method == "cosine":
        turn = np.float32(math.pi) * now / np.float32(total_steps - warmup_steps)
        return float(np.float32(0.5 * top) * (np.float32(1) + np.cos(turn)))
    if method == "polynomial":
        left = np.maximum(np.float32(0), np.float32(1) - now / np.float32(total_steps))
        return float(np.float32(top) * left ** np.float32(poly_lr_power))
    if step < int(first_lr_drop_epoch * steps_per_epoch):
        return float(np.float32(top))
    return float(np.float32(top * (0.1 if step < int(second_lr_drop_epoch * steps_per_epoch) else 0.01)))


def epoch_learning_rates(
    epochs: int = 300,
    *,
    sched: str = "cosine",
    lr: float = 0.01,
    min_lr: float = 1e-5,
    warmup_lr: float = 1e-4,
    warmup_epochs: int = 5,
    cooldown_epochs: int = 10,
    decay_epochs: int = 30,
    decay_rate: float = 0.1,
    lr_noise: Sequence[float] | None = None,
    lr_noise_pct: float = 0.67,
    lr_noise_std: float = 1.0,
    seed: int = 42,
    **others: Any,
) -> list[float]:
    """effdet's learning rate of each epoch, by timm's own schedulers; cooldown epochs are at the end.

    Args:
        sched: a name that `timm.scheduler.create_scheduler_v2` knows; defaults are effdet's train.py's.
        lr_noise: parts of training (0 to 1) between which the rate is made noisy.
        others: more arguments of `create_scheduler_v2`.

    Raises:
        InputError: timm makes no schedule of that.
    """
    import torch
    from timm.scheduler import create_scheduler_v2

    _check({"epochs": epochs, "lr": lr}, 0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    noise = [float(part) for part in lr_noise] if lr_noise else None
    try:
        scheduler, total = create_scheduler_v2(
            optimizer, sched=sched, num_epochs=epochs, decay_epochs=decay_epochs, decay_rate=decay_rate,
            min_lr=min_lr, warmup_lr=warmup_lr, warmup_epochs=warmup_epochs, cooldown_epochs=cooldown_epochs,
            noise=noise, noise_pct=lr_noise_pct, noise_std=lr_noise_std, noise_seed=seed, **others,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"learning rate: expected a schedule that timm makes, found: {error}.") from None
    if scheduler is None:
        raise InputError(f"learning rate: expected a schedule that timm knows, found {shown(sched)}; try 'cosine'.")
    rates = []
    for epoch in range(total):
        scheduler.step(epoch)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def _check(numbers: dict[str, Any], least: float) -> None:
    for name, value in numbers.items():
        if not (isinstance(value, (int, float, np.number)) and math.isfinite(value) and least <= value <= 1e12):
            raise InputError(f"{name}: expected a number from {least} on, found {shown(value)}; correct it.")
