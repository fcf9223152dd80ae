"""Recipes: every setting in which google/automl (6a54c87) and effdet 0.4.1 train differently, and all that both set.

`recipe("google")` is complete by itself, and so is `recipe("effdet")`; single settings are overridden by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effdet_model.errors import unknown_name
from effdet_model.field_types import (
    FieldType,
    Named,
    Nullable,
    Plain,
    flag,
    identifier,
    number,
    one_of,
    one_or_list,
    whole,
)
from training.box_iou import IOU_LOSS_TYPES
from training.schedules import GENERATIONS
from training.targets import CODERS


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Types and ranges: `FIELDS`; the two sets of defaults: `recipe`.

    Attributes:
        name: "google" or "effdet": whose defaults these are.
        generation: "tf1" or "tf2", of google/automl: how its learning rate counts steps and scales the warm-up.
        epochs: over the data; effdet adds `cooldown_epochs`.
        batch_size: images of one update, over all processes and micro-batches.
        seed: of everything that is random.

        optimizer: "sgd" (with momentum), "adam", or any name of timm's, e.g. "adamw".
        optimizer_form: of "sgd" and "adam": "tf1" and "tf2" as TensorFlow's, "torch" as PyTorch's. "sgd" is the same
            in "tf1" and "torch"; in "tf2" the momentum is of updates (v = m v - rate g), not of gradients.
        momentum: of "sgd"; beta 1 of "adam" but in "tf1".
        weight_decay: of convolution kernels.
        weight_decay_in: "loss": half the squared kernels are part of the loss, before clipping; "optimizer": after it.
        clip_mode: "variables_then_global": each variable's gradient to a norm of `clip_norm`, then all together;
            "norm", "value" and "agc" as timm's; "none".
        clip_norm: what clipping clips to.

        ema_decay: of the moving average of weights; 0 keeps none.
        ema_dynamic: the decay begins small, min(ema_decay, (1 + n) / (10 + n)) after n updates.
        ema_first_update: n at the first update: 1 in TensorFlow 1, 0 in TensorFlow 2.
        ema_statistics: batch norm statistics are averaged as well; else the averages go with the model's own.

        replicas: how several processes go together. "one_batch": as if one process had all images (positives are
            summed over all). Else each process divides by its own positives + 1, and gradients are added up ("sum",
            google/automl's GPU strategies) or averaged ("mean", its TPU strategy and effdet).
        positives_momentum: above 0 the positives + 1 become a moving average; below 0 the mean of all processes.

        schedule: "cosine", "stepwise", "polynomial", "constant" of google/automl; or a name of timm's schedulers.
        schedule_form: "google": per step, rates are for 64 images a step; "timm": per epoch, rates are as given.
        learning_rate, warmup_learning_rate, warmup_epochs: the highest rate, and how it is reached.
        first_drop_epoch, second_drop_epoch: of "stepwise". poly_power: of "polynomial".
        min_learning_rate, cooldown_epochs, decay_epochs, decay_rate: of timm's.
        lr_noise, lr_noise_pct, lr_noise_std: of timm's: parts of training (0 to 1) between which the rate is noisy, and
            how.

        alpha, gamma, label_smoothing, delta, box_loss_weight, iou_loss_type, iou_loss_weight, legacy_focal: see
            `training.losses.detection_loss`.
        box_coder: of `training.targets.AnchorLabeler`.

        initial_weights: of what does not come from a file: "google" or "effdet" (`effdet_model.initial_weights`).
        batch_norm_momentum: PyTorch's (0.01 is TensorFlow's 0.99) of all batch norms.
        backbone_batch_norm_momentum: of the backbone's; None keeps timm's.
        drop_path: "google": none for b0, 0.2 for all other backbones; "model": as the config's
            backbone_args say; or a rate. It grows with the depth.
        freeze: regular expression, matched at the beginning of a parameter's name (`backbone`, `backbone|fpn`): these
            stay as they are.
        freeze_statistics: batch norms of frozen parameters use and keep their statistics; else these still move.
        augmentation_style: "google" or "effdet": the order of random scale and crop, rounding, and clipping of boxes.
    """

    name: str
    generation: str
    epochs: int
    batch_size: int
    optimizer: str
    optimizer_form: str
    weight_decay_in: str
    clip_mode: str
    ema_dynamic: bool
    ema_first_update: int
    ema_statistics: bool
    schedule_form: str
    learning_rate: float
    warmup_learning_rate: float
    warmup_epochs: float
    box_coder: str
    initial_weights: str
    backbone_batch_norm_momentum: float | None
    drop_path: str | float
    augmentation_style: str
    seed: int = 42
    momentum: float = 0.9
    weight_decay: float = 4e-5
    clip_norm: float = 10.0
    ema_decay: float = 0.9998
    replicas: str = "one_batch"
    positives_momentum: float | None = None
    schedule: str = "cosine"
    first_drop_epoch: float = 200.0
    second_drop_epoch: float = 250.0
    poly_power: float = 0.9
    min_learning_rate: float = 1e-5
    cooldown_epochs: int = 10
    decay_epochs: int = 30
    decay_rate: float = 0.1
    lr_noise: tuple[float, ...] | float | None = None
    lr_noise_pct: float = 0.67
    lr_noise_std: float = 1.0
    alpha: float = 0.25
    gamma: float = 1.5
    label_smoothing: float = 0.0
    delta: float = 0.1
    box_loss_weight: float = 50.0
    iou_loss_type: str | None = None
    iou_loss_weight: float = 1.0
    legacy_focal: bool = False
    batch_norm_momentum: float = 0.01
    freeze: str | None = None
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        for name, kind in FIELDS.items():
            object.__setattr__(self, name, kind.read(getattr(self, name), f"recipe: {name}"))

    def replace(self, **overrides: Any) -> Recipe:
        """A copy with some settings changed.

        Raises:
            InputError: a setting does not exist or has a value that it cannot have.
        """
        check_settings(overrides)
        return dataclasses.replace(self, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `Recipe(**data)` makes the same recipe."""
        return dataclasses.asdict(self)

    def loss_settings(self) -> dict[str, Any]:
        """Keywords of `training.losses.detection_loss`."""
        names = (
            "alpha", "gamma", "label_smoothing", "delta", "box_loss_weight", "iou_loss_type", "iou_loss_weight",
            "legacy_focal",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def _drop_path(value: Any) -> str | float:
    return value if isinstance(value, str) and value in ("google", "model") else number(0, 0.95).convert(value)


def _expression(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        raise ValueError from None
    return value


_RATE = number(0, 1000)
_EPOCHS = number(0, 1_000_000)

FIELDS: Mapping[str, FieldType] = {
    "name": one_of(("google", "effdet")),
    "generation": one_of(GENERATIONS),
    "epochs": whole(1, 1_000_000),
    "batch_size": whole(1, 1_000_000),
    "seed": whole(0, 2**31 - 1),
    "optimizer": identifier("a name such as sgd, adam, adamw"),
    "optimizer_form": one_of(("tf1", "tf2", "torch")),
    "momentum": number(0, 0.999999),
    "weight_decay": number(0, 100),
    "weight_decay_in": one_of(("loss", "optimizer")),
    "clip_mode": one_of(("variables_then_global", "norm", "value", "agc", "none")),
    "clip_norm": number(0, 1e9, above=True),
    "ema_decay": number(0, 0.9999999),
    "ema_dynamic": flag,
    "ema_first_update": whole(0, 1),
    "ema_statistics": flag,
    "replicas": one_of(("one_batch", "sum", "mean")),
    "positives_momentum": Nullable(number(-1, 0.9999999)),
    "schedule": identifier("a name such as cosine, stepwise, constant"),
    "schedule_form": one_of(("google", "timm")),
    "learning_rate": _RATE,
    "warmup_learning_rate": _RATE,
    "warmup_epochs": _EPOCHS,
    "first_drop_epoch": _EPOCHS,
    "second_drop_epoch": _EPOCHS,
    "poly_power": number(0, 100),
    "min_learning_rate": _RATE,
    "cooldown_epochs": whole(0, 1_000_000),
    "decay_epochs": whole(1, 1_000_000),
    "decay_rate": number(0, 1000),
    "lr_noise": Nullable(one_or_list(number(0, 1), 2, "one or two numbers from 0 to 1")),
    "lr_noise_pct": number(0, 100),
    "lr_noise_std": number(0, 100),
    "alpha": number(0, 1),
    "gamma": number(0, 100),
    "label_smoothing": number(0, 1),
    "delta": number(1e-9, 1e6),
    "box_loss_weight": number(0, 1e9),
    "iou_loss_type": Nullable(Named(IOU_LOSS_TYPES)),
    "iou_loss_weight": number(0, 1e9),
    "legacy_focal": flag,
    "box_coder": one_of(CODERS),
    "initial_weights": one_of(("google", "effdet")),
    "batch_norm_momentum": number(0, 1),
    "backbone_batch_norm_momentum": Nullable(number(0, 1)),
    "drop_path": Plain("google, model, or a rate from 0 to 0.95", _drop_path),
    "freeze": Nullable(Plain("a regular expression, such as backbone|fpn", _expression)),
    "freeze_statistics": flag,
    "augmentation_style": one_of(("google", "effdet")),
}
"""What every setting may be."""

_GOOGLE: Mapping[str, Any] = {
    "name": "google", "epochs": 300, "batch_size": 64, "optimizer": "sgd", "weight_decay_in": "loss",
    "clip_mode": "variables_then_global", "ema_dynamic": True, "schedule_form": "google", "learning_rate": 0.08,
    "warmup_learning_rate": 0.008, "warmup_epochs": 1.0, "box_coder": "google", "initial_weights": "google",
    "backbone_batch_norm_momentum": 0.01, "drop_path": "google", "augmentation_style": "google",
}  # fmt: skip

_GENERATION: Mapping[str, Mapping[str, Any]] = {
    "tf1": {"optimizer_form": "tf1", "ema_first_update": 1, "ema_statistics": True},
    "tf2": {"optimizer_form": "tf2", "ema_first_update": 0, "ema_statistics": False},
}

_EFFDET: Mapping[str, Any] = {
    "name": "effdet", "generation": "tf1", "epochs": 300, "batch_size": 32, "optimizer": "sgd",
    "optimizer_form": "torch", "weight_decay_in": "optimizer", "clip_mode": "norm", "ema_dynamic": False,
    "ema_first_update": 0, "ema_statistics": True, "schedule_form": "timm", "learning_rate": 0.01,
    "warmup_learning_rate": 1e-4, "warmup_epochs": 5.0, "box_coder": "effdet", "initial_weights": "effdet",
    "backbone_batch_norm_momentum": None, "drop_path": "model", "augmentation_style": "effdet",
}  # fmt: skip

RECIPES = ("google", "effdet")


def recipe(name: str = "google", *, generation: str = "tf1", **overrides: Any) -> Recipe:
    """A complete recipe.

    Args:
        name: "google" or "effdet".
        generation: of google/automl's trainer, where its two differ: "tf1", which made the released weights, or "tf2".
        overrides: settings of `Recipe`.

    Raises:
        InputError: a name is unknown, or a value is none that its setting can have.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    if generation not in GENERATIONS:
        raise unknown_name("generation of google/automl", generation, GENERATIONS)
    check_settings(overrides)
    if name == "effdet":
        return Recipe(**{**_EFFDET, **overrides})
    return Recipe(**{**_GOOGLE, **_GENERATION[generation], "generation": generation, **overrides})


def check_settings(overrides: Mapping[str, Any]) -> None:
    """Refuse names that are no settings.

    Raises:
        InputError: the first such name, with the nearest ones.
    """
    for name in overrides:
        if name not in Recipe.__dataclass_fields__:
            raise unknown_name("recipe setting", name, Recipe.__dataclass_fields__)
