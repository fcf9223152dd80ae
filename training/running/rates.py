"""How long a run is, and the learning rate of each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.recipes import Recipe
from training.schedules import epoch_learning_rates, learning_rate

_LONG = 100
"""Epochs from which on a run is as long as the recipes were made for."""


@dataclass(frozen=True)
class Schedule:
    """Epochs of a run, updates of an epoch, and `rate(step)` for steps from 0 on."""

    epochs: int
    steps_per_epoch: int
    rate: Callable[[int], float]

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return self.epochs * self.steps_per_epoch


def schedule(recipe: Recipe, steps_per_epoch: int, batch_size: int) -> Schedule:
    """The recipe's schedule for so many updates an epoch of so many images.

    Raises:
        InputError: the recipe's numbers make no schedule.
    """
    if recipe.schedule_form == "timm":
        noise = recipe.lr_noise
        rates = epoch_learning_rates(
            recipe.epochs, sched=recipe.schedule, lr=recipe.learning_rate, min_lr=recipe.min_learning_rate,
            warmup_lr=recipe.warmup_learning_rate, warmup_epochs=round(recipe.warmup_epochs),
            cooldown_epochs=recipe.cooldown_epochs, decay_epochs=recipe.decay_epochs, decay_rate=recipe.decay_rate,
            lr_noise=noise if noise is None or isinstance(noise, tuple) else (noise,),
            lr_noise_pct=recipe.lr_noise_pct, lr_noise_std=recipe.lr_noise_std, seed=recipe.seed,
        )  # fmt: skip
        return Schedule(len(rates), steps_per_epoch, lambda step: rates[min(step // steps_per_epoch, len(rates) - 1)])

    def rate(step: int) -> float:
        return learning_rate(
            step, recipe.schedule, batch_size, recipe.epochs, steps_per_epoch * batch_size,
            learning_rate=recipe.learning_rate, lr_warmup_init=recipe.warmup_learning_rate,
            lr_warmup_epoch=recipe.warmup_epochs, first_lr_drop_epoch=recipe.first_drop_epoch,
            second_lr_drop_epoch=recipe.second_drop_epoch, poly_lr_power=recipe.poly_power,
            generation=recipe.generation,
        )  # fmt: skip

    rate(0)
    return Schedule(recipe.epochs, steps_per_epoch, rate)


def shortened(recipe: Recipe, given: set[str]) -> tuple[Recipe, list[str]]:
    """A recipe made for hundreds of epochs, for a short run: what is counted in epochs keeps its share of the run.

    Args:
        given: settings that the user chose; they stay.

    Returns:
        The recipe, and what was changed, in sentences.
    """
    if recipe.epochs >= _LONG:
        return recipe, []
    share = recipe.epochs / 300
    changes: dict[str, float | int] = {}
    longest = recipe.epochs / 10
    if "warmup_epochs" not in given and recipe.warmup_epochs > longest:
        changes["warmup_epochs"] = longest if recipe.schedule_form == "google" else int(longest)
    if recipe.schedule_form == "timm" and "cooldown_epochs" not in given:
        changes["cooldown_epochs"] = int(recipe.cooldown_epochs * share)
    for name in ("first_drop_epoch", "second_drop_epoch"):
        if recipe.schedule == "stepwise" and name not in given:
            changes[name] = getattr(recipe, name) * share
    if not changes:
        return recipe, []
    told = ", ".join(f"{name} {value:g} (recipe: {getattr(recipe, name):g})" for name, value in changes.items())
    return recipe.replace(**changes), [f"Short training: {told}."]
