"""Targets, losses, gradients and schedules against google/automl's own (data/official_training.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from effdet_model import get_config
from tests.training.official_cases import (
    GRADIENT_STEP,
    LOSSES,
    MODELS,
    MOMENTUM,
    POSITIVES,
    SCHEDULES,
    head_outputs,
    loss_truths,
    schedule_steps,
    truths,
)
from training import AnchorLabeler, MovingNormalizer, Targets, detection_loss, learning_rate


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "official_training.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", truths())
def test_targets_are_google_automls(official: dict[str, np.ndarray], name: str) -> None:
    model, truth = truths()[name]
    targets = AnchorLabeler(get_config("d0", **MODELS[model]))(truth.boxes, truth.classes)
    classes = torch.cat([level.reshape(-1) for level in targets.class_targets]).numpy()
    boxes = torch.cat([level.reshape(-1, 4) for level in targets.box_targets]).numpy()
    np.testing.assert_array_equal(classes, official[f"targets|{name}|class"])
    assert targets.num_positives == official[f"targets|{name}|positives"]
    places = official[f"targets|{name}|places"]
    np.testing.assert_array_equal(np.flatnonzero(boxes.any(axis=1)), places)
    np.testing.assert_allclose(boxes[places], official[f"targets|{name}|box"], rtol=1e-5, atol=1e-5)


def test_matching_in_parts_is_matching_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts shorter than a level, so that every box's best anchor is sought over many of them."""
    from training import targets

    config = get_config("d0", **MODELS["d0"])
    for name in ("many", "equal", "two tiny in one place", "between anchors"):
        truth = truths()[name][1]
        whole = AnchorLabeler(config)(truth.boxes, truth.classes)
        monkeypatch.setattr(targets, "_PAIRS_AT_ONCE", 150 * 17)
        parts = AnchorLabeler(config)(truth.boxes, truth.classes)
        monkeypatch.undo()
        assert all(map(torch.equal, whole.box_targets, parts.box_targets))
        assert all(map(torch.equal, whole.class_targets, parts.class_targets))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_google_automls(official: dict[str, np.ndarray], name: str) -> None:
    losses, class_outputs, box_outputs = _run(LOSSES[name])
    for key, stored in (("loss", "det_loss"), ("class_loss", "cls_loss"), ("box_loss", "box_loss")):
        np.testing.assert_allclose(losses[key].item(), official[f"loss|{name}|{stored}"], rtol=2e-5, err_msg=key)
    assert ("box_iou_loss" in losses) == bool(LOSSES[name].get("iou_loss_type"))
    if "box_iou_loss" in losses:
        np.testing.assert_allclose(losses["box_iou_loss"].item(), official[f"loss|{name}|box_iou_loss"], rtol=2e-5)
    losses["loss"].backward()
    for key, outputs in (("class", class_outputs), ("box", box_outputs)):
        wanted = official[f"loss|{name}|gradient|{key}"]
        found = _flat_gradients(outputs)[::GRADIENT_STEP]
        assert np.abs(wanted).max() > 0 or key == "box"
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 * scale, err_msg=key)


def test_float64_gives_what_float32_gives() -> None:
    for name in ("default", "ciou"):
        single, double = _run(LOSSES[name])[0], _run(LOSSES[name], torch.float64)[0]
        assert double["loss"].dtype == torch.float64
        assert single["loss"].item() == pytest.approx(double["loss"].item(), rel=1e-5)


def test_moving_normalizer_is_google_automls(official: dict[str, np.ndarray]) -> None:
    moving = MovingNormalizer(MOMENTUM)
    found = [moving([Targets([], [], positives)]) for positives in POSITIVES]
    np.testing.assert_allclose(found, official["normalizers"], rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("generation", ["tf1", "tf2"])
def test_schedules_are_google_automls(official: dict[str, np.ndarray], name: str, generation: str) -> None:
    if f"schedule|{name}|{generation}" not in official:
        pytest.skip("the trainer for TF2 has no constant rate")
    settings = SCHEDULES[name]
    found = [learning_rate(step, **settings, generation=generation) for step in schedule_steps(**settings)]
    wanted = official[f"schedule|{name}|{generation}"]
    before_end = settings.get("examples", 120000) // settings.get("batch_size", 64) * settings.get("epochs", 300)
    sure = np.array(schedule_steps(**settings)) < before_end
    assert sure.mean() > 0.9
    np.testing.assert_allclose(np.array(found)[sure], wanted[sure], rtol=1e-6, atol=1e-8)


def _run(settings: dict, dtype: torch.dtype = torch.float32) -> tuple[dict, list, list]:
    config = get_config("d0", **MODELS["small"])
    labeler = AnchorLabeler(config)
    targets = [labeler(truth.boxes, truth.classes) for truth in loss_truths()]
    class_outputs, box_outputs = (
        [torch.from_numpy(level.transpose(0, 3, 1, 2).copy()).to(dtype).requires_grad_() for level in levels]
        for levels in head_outputs()
    )
    return detection_loss(config, class_outputs, box_outputs, targets, **settings), class_outputs, box_outputs


def _flat_gradients(outputs: list[torch.Tensor]) -> np.ndarray:
    grads = [torch.zeros_like(out) if out.grad is None else out.grad for out in outputs]
    return torch.cat([grad.permute(0, 2, 3, 1).reshape(-1) for grad in grads]).numpy()
