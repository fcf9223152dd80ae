"""Recipes: complete, bounded, and as their originals."""

from __future__ import annotations

import pytest

from effdet_model import InputError
from training.recipes import FIELDS, Recipe, recipe
from training.running.rates import schedule, shortened
from training.running.settings import parse_settings
from training.schedules import learning_rate


def test_both_are_complete_and_differ_where_the_originals_do() -> None:
    google, effdet = recipe("google").to_dict(), recipe("effdet").to_dict()
    assert set(FIELDS) == set(google) == set(effdet)
    assert {name for name in google if google[name] != effdet[name]} == {
        "name", "batch_size", "optimizer_form", "weight_decay_in", "clip_mode", "ema_dynamic", "ema_first_update",
        "schedule_form", "learning_rate", "warmup_learning_rate", "warmup_epochs", "box_coder", "initial_weights",
        "backbone_batch_norm_momentum", "drop_path", "augmentation_style",
    }  # fmt: skip
    tf2 = recipe("google", generation="tf2").to_dict()
    assert {name for name in google if google[name] != tf2[name]} == {
        "generation", "optimizer_form", "ema_first_update", "ema_statistics",
    }  # fmt: skip
    assert Recipe(**google) == recipe("google")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentom": 0.9}, "unknown recipe setting: 'momentom'. Did you mean momentum"),
        ({"momentum": 2}, "recipe: momentum: expected a number from 0 to"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number from 0"),
        ({"freeze": "("}, "freeze: expected a regular expression"),
        ({"drop_path": True}, "drop_path: expected google, model, or a rate"),
        ({"epochs": 10**9}, "epochs: expected a whole number from 1"),
    ],
)
def test_what_is_no_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        recipe("google", **settings)


def test_unknown_recipes() -> None:
    with pytest.raises(InputError, match="unknown recipe: 'gogle'. Did you mean google"):
        recipe("gogle")
    with pytest.raises(InputError, match="unknown generation"):
        recipe("google", generation="tf3")


def test_typed_settings() -> None:
    assert parse_settings(["momentum=0.8,lr_noise=0.4*0.9", "freeze=backbone|fpn", "legacy_focal=true", "seed=3"]) == {
        "momentum": 0.8, "lr_noise": (0.4, 0.9), "freeze": "backbone|fpn", "legacy_focal": True, "seed": 3,
    }  # fmt: skip
    for wrong, message in (("momentum", "expected NAME=VALUE"), ("a=1,a=2", "found a twice")):
        with pytest.raises(InputError, match=message):
            parse_settings([wrong])


def test_schedules_of_a_run() -> None:
    google = schedule(recipe("google", epochs=20), 25, 8)
    assert google.steps == 500
    assert google.rate(100) == learning_rate(100, batch_size=8, epochs=20, examples=200)
    effdet = schedule(recipe("effdet", epochs=20, cooldown_epochs=2), 25, 8)
    assert effdet.epochs == 22 and effdet.rate(0) == effdet.rate(24) == pytest.approx(1e-4)
    assert effdet.rate(25 * 21) == pytest.approx(1e-5)


def test_a_short_run_keeps_the_shares_of_a_long_one() -> None:
    same, told = shortened(recipe("google"), set())
    assert same == recipe("google") and told == []
    short, told = shortened(recipe("google", epochs=2), set())
    assert short.warmup_epochs == 0.2 and "warmup_epochs 0.2 (recipe: 1)" in told[0]
    kept, told = shortened(recipe("google", epochs=2, warmup_epochs=1), {"warmup_epochs"})
    assert kept.warmup_epochs == 1 and told == []
    effdet, _ = shortened(recipe("effdet", epochs=30), set())
    assert (effdet.warmup_epochs, effdet.cooldown_epochs) == (3, 1)
