"""Targets, losses and schedules against effdet 0.4.1, their edges, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from effdet.anchors import AnchorLabeler as EffdetLabeler
from effdet.anchors import Anchors
from effdet.loss import loss_fn

from effdet_model import InputError, get_config
from tests.training.official_cases import MODELS, head_outputs, loss_truths, truths
from training import AnchorLabeler, MovingNormalizer, detection_loss, epoch_learning_rates, learning_rate


@pytest.mark.parametrize("name", truths())
def test_targets_are_effdets(name: str) -> None:
    model, truth = truths()[name]
    if len(truth.boxes) == 0:
        pytest.skip("effdet has no answer to an image without boxes here")
    config = get_config("d0", **MODELS[model])
    anchors = Anchors.from_config(config)
    wanted_classes, wanted_boxes, positives = EffdetLabeler(anchors, config.num_classes).label_anchors(
        torch.from_numpy(truth.boxes), torch.from_numpy(truth.classes).float()
    )
    targets = AnchorLabeler(config, box_coder="effdet")(truth.boxes, truth.classes)
    assert targets.num_positives == positives
    for found, wanted in zip(targets.class_targets, wanted_classes, strict=True):
        assert found.dtype == torch.int64 and torch.equal(found, wanted)
    for found, wanted in zip(targets.box_targets, wanted_boxes, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"legacy_focal": True}, {"gamma": 2.0}])
def test_losses_and_gradients_are_effdets(settings: dict[str, Any]) -> None:
    config = get_config("d0", **MODELS["small"])
    labeler = AnchorLabeler(config, box_coder="effdet")
    targets = [labeler(truth.boxes, truth.classes) for truth in loss_truths()]
    stacked = [[torch.stack(level) for level in zip(*(getattr(t, name) for t in targets), strict=True)] for name in (
        "class_targets", "box_targets")]
    known = {"alpha": 0.25, "gamma": 1.5, "delta": 0.1, "box_loss_weight": 50.0}
    positives = torch.tensor([t.num_positives for t in targets])
    ours, theirs = _outputs(), _outputs()
    found = detection_loss(config, *ours, targets, **settings)
    wanted = loss_fn(*theirs, *stacked, positives, config.num_classes, **{**known, **settings})
    for key, value in zip(("loss", "class_loss", "box_loss"), wanted, strict=True):
        torch.testing.assert_close(found[key], value, rtol=2e-5, atol=0)
    found["loss"].backward()
    wanted[0].backward()
    for one, other in zip(ours[0] + ours[1], theirs[0] + theirs[1], strict=True):
        if settings.get("legacy_focal"):  # effdet's overflows where a logit is -80, ours does not
            assert torch.isfinite(one.grad).all()
            one, other = (torch.where(torch.isfinite(other.grad), grad, 0) for grad in (one.grad, other.grad))
        else:
            one, other = one.grad, other.grad
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_half_precision_is_summed_in_float32() -> None:
    config = get_config("d0", **MODELS["small"])
    targets = [AnchorLabeler(config)(truth.boxes, truth.classes) for truth in loss_truths()]
    class_outputs, box_outputs = _outputs()
    half = [[level.to(torch.bfloat16) for level in levels] for levels in (class_outputs, box_outputs)]
    losses = detection_loss(config, *half, targets)
    assert losses["loss"].dtype == torch.float32
    again = detection_loss(config, *([level.float() for level in levels] for levels in half), targets)
    assert losses["loss"] == again["loss"]


def test_every_box_has_an_anchor_and_background_has_no_box() -> None:
    config = get_config("d0", **MODELS["d0"])
    random = np.random.RandomState(0)
    corners = random.uniform(0, 120, (30, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0.5, 8, (30, 2))], 1)
    targets = AnchorLabeler(config)(boxes, np.arange(1, 31))
    classes = torch.cat([level.reshape(-1) for level in targets.class_targets])
    assert len(classes.unique()) > 25
    assert float((classes >= 0).sum()) == targets.num_positives
    codes = torch.cat([level.reshape(-1, 4) for level in targets.box_targets])
    assert not codes[classes == -1].any() and codes[classes >= 0].any(dim=1).all()


def test_the_loss_of_no_boxes_is_finite_and_moves_the_classes_alone() -> None:
    config = get_config("d0", **MODELS["small"])
    empty = AnchorLabeler(config)(np.zeros((0, 4)), np.zeros(0))
    assert empty.num_positives == 0
    class_outputs, box_outputs = _outputs()
    for kind in (None, "iou", "giou", "diou", "ciou"):
        losses = detection_loss(config, class_outputs, box_outputs, [empty, empty], iou_loss_type=kind)
        losses["loss"].backward()
        assert losses["box_loss"] == 0 and losses["loss"] > 0
    assert all(out.grad.isfinite().all() and out.grad.any() for out in class_outputs)
    assert not any(out.grad.any() for out in box_outputs)


@pytest.mark.parametrize(
    ("boxes", "classes", "message"),
    [
        ([[0, 0, 5]], [1], r"expected shapes \[n, 4\] and \[n\], found \[1, 3\] and \[1\]"),
        ([[0, 0, 5, 5]], [1, 2], r"found \[1, 4\] and \[2\]"),
        ([[0, 0, 5, 5], [9, 3, 2, 8]], [1, 1], r"box 1: expected y0, x0, y1, x1 in pixels with y0 <= y1"),
        ([[0, 0, np.nan, 5]], [1], "box 0: expected"),
        ([[0, 0, 1e30, 5]], [1], "box 0: expected"),
        ([[0, 0, 5, 5]], [0], "class of box 0: expected a whole number from 1 to 90"),
        ([[0, 0, 5, 5]], [91], "from 1 to 90.*found 91"),
        ([[0, 0, 5, 5]], [1.5], "found 1.5"),
        ([["a", 0, 5, 5]], [1], "expected numbers|can't convert"),
        ([[0, 0, 5, 5], [0, 0, 5]], [1, 1], "expected numbers"),
    ],
)
def test_boxes_and_classes_that_cannot_be_meant_are_refused(boxes: Any, classes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        AnchorLabeler(get_config("d0"))(boxes, classes)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iou_loss_type": "ciuo"}, "Did you mean ciou"),
        ({"gamma": float("nan")}, "gamma: expected a number"),
        ({"alpha": 2}, "alpha: expected a number from 0 to 1"),
        ({"label_smoothing": 0.1, "legacy_focal": True}, "legacy focal loss"),
    ],
)
def test_settings_that_make_no_loss_are_refused(settings: dict[str, Any], message: str) -> None:
    config = get_config("d0", **MODELS["small"])
    targets = [AnchorLabeler(config)(truth.boxes, truth.classes) for truth in loss_truths()]
    with pytest.raises(InputError, match=message):
        detection_loss(config, *_outputs(), targets, **settings)


def test_targets_of_another_size_are_refused() -> None:
    other = AnchorLabeler(get_config("d0", image_size=128, num_classes=3))([[0, 0, 9, 9]], [1])
    with pytest.raises(InputError, match="level 3: expected class and box outputs of shapes"):
        detection_loss(get_config("d0", **MODELS["small"]), *_outputs(), [other, other])


def test_epoch_rates_are_those_of_effdets_defaults() -> None:
    rates = epoch_learning_rates()
    assert len(rates) == 310
    np.testing.assert_allclose(rates[:6], [1e-4, 0.00208, 0.00406, 0.00604, 0.00802, 0.009993], rtol=1e-4)
    assert rates[299] == pytest.approx(1e-5, rel=0.1) and rates[305] == pytest.approx(1e-5)
    assert min(rates[:300]) >= 1e-5
    noisy = epoch_learning_rates(lr_noise=[0.4, 0.9])
    assert noisy[:100] == rates[:100] and noisy[150:200] != rates[150:200]
    assert noisy == epoch_learning_rates(lr_noise=[0.4, 0.9])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": -1}, "step: expected a number"),
        ({"step": 0, "method": "cosin"}, "Did you mean cosine"),
        ({"step": 0, "epochs": 1}, "more steps than warm-up has"),
        ({"step": 0, "batch_size": 0}, "batch_size: expected a number from 1 on"),
        ({"step": 0, "generation": "tf3"}, "unknown generation"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        learning_rate(**settings)


def test_a_momentum_of_one_is_refused() -> None:
    with pytest.raises(InputError, match=re.escape("from 0 to below 1")):
        MovingNormalizer(1.0)


def _outputs() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    classes, boxes = (
        [torch.from_numpy(level.transpose(0, 3, 1, 2).copy()).requires_grad_() for level in levels]
        for levels in head_outputs()
    )
    return classes, boxes
