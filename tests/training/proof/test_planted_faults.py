"""A training that does one thing otherwise than TensorFlow is found, at the place where it does so."""

from __future__ import annotations

import copy

import pytest
import torch

import training.batch_norm
import training.gradients
import training.losses
import training.targets
from effdet_model import EfficientDet
from tests.training.proof.cases import judged, model, port, reference
from training.recipes import recipe

SETTINGS = {
    "weight decay": ({"weight_decay": 4.1e-5}, "loss", 1),
    "clipping": ({"clip_norm": 10.1}, "parameter", 1),
    "global clipping alone": ({"clip_mode": "norm"}, "parameter", 1),
    "momentum": ({"momentum": 0.89}, "parameter", 2),
    "constant average": ({"ema_dynamic": False}, "average", 1),
    "average's count": ({"ema_first_update": 0}, "average", 1),
    "batch norm momentum": ({"batch_norm_momentum": 0.011}, "statistic", 1),
    "warm-up": ({"warmup_learning_rate": 0.0081}, "rate", 1),
    "delta": ({"delta": 0.11}, "loss", 1),
    "normaliser": ({"positives_momentum": 0.5}, "loss", 1),
}


def test_without_a_fault_both_are_equal() -> None:
    found = judged(reference(), port(recipe("google")))
    assert found.passed, found.verdict
    assert len(found.rows) > 1000 and max(row.difference.max_rel for row in found.rows if row.kind != "target") < 1e-9


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_is_found(name: str) -> None:
    wrong, kind, step = SETTINGS[name]
    found = judged(reference(), port(recipe("google", **wrong)))
    assert not found.passed
    first = found.first_failure
    assert first is not None and (first.kind, first.step) == (kind, step), found.cause
    assert f"step {step}" in found.cause and found.cause in found.verdict


def test_a_wrong_epsilon_is_found() -> None:
    wrong = copy.deepcopy(model()[0])
    norm = wrong.get_submodule("backbone.blocks.3.1.bn2")
    assert norm.eps == 1e-3
    norm.eps = 1.01e-3  # type: ignore[assignment]
    found = judged(reference(), port(recipe("google"), own=wrong))
    assert found.first_failure is not None and found.first_failure.kind == "loss"


def test_a_wrong_weight_is_found() -> None:
    wrong: EfficientDet = copy.deepcopy(model()[0])
    with torch.no_grad():
        wrong.get_parameter("fpn.cell.0.fnode.2.combine.edge_weights")[0] += 1e-6
    found = judged(reference(), port(recipe("google"), own=wrong))
    assert not found.passed and found.first_failure is not None and found.first_failure.kind == "loss"


def test_variance_of_n_values_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a batch norm of one's own gets wrong first."""

    def of_n(norm: torch.nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            norm.running_mean.lerp_(mean, norm.momentum or 0.0)
            norm.running_var.lerp_(variance, norm.momentum or 0.0)
        return torch.nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)

    monkeypatch.setattr(training.batch_norm, "_batch_norm", of_n)
    found = judged(reference(), port(recipe("google")))
    first = found.first_failure
    assert first is not None and (first.kind, first.step) == ("statistic", 1)
    assert "N or N - 1" in found.cause


def test_a_wrong_derivative_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss itself is right."""
    right = training.losses.huber_loss

    def wrong(outputs: torch.Tensor, wanted: torch.Tensor, delta: float) -> torch.Tensor:
        value = right(outputs, wanted, delta)
        return value.detach() + (value - value.detach()) * (1 + 1e-7)

    monkeypatch.setattr(training.losses, "huber_loss", wrong)
    found = judged(reference(), port(recipe("google")))
    first = found.first_failure
    assert first is not None and first.kind in ("loss", "gradient")  # the norm of all gradients is among the terms
    assert any(row.kind == "gradient" and not row.ok for row in found.rows)


def test_a_missed_anchor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes that only their best anchor matches."""
    monkeypatch.setattr(training.targets, "MATCH_THRESHOLD", 0.6)
    found = judged(reference(), port(recipe("google")))
    assert found.first_failure is not None and (found.first_failure.kind, found.first_failure.step) == ("target", 1)


def test_a_parameter_without_a_gradient_is_found() -> None:
    found = judged(reference(), port(recipe("google", freeze="box_net.predict.conv_pw.bias")))
    missing = [row for row in found.rows if row.kind == "gradient" and not row.ok]
    assert [row.name for row in missing] == ["box_net.predict.conv_pw.bias"]
    assert missing[0].difference.note == "the port has none"
