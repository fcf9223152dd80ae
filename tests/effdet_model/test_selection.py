"""Selection and box decoding against a plain top-k and TensorFlow's order of equal scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import effdet_model.selection as selection
from effdet_model import InputError
from effdet_model.anchors import generate_anchors
from effdet_model.selection import decode_boxes, select
from tests.tensorflow_results import logits_case, tensorflow_results

CLASSES, ANCHORS_PER_CELL = 7, 3
SIZES = [(16, 20), (8, 10), (4, 5)]


def outputs(batch=2, steps=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    classes = [torch.randn(batch, ANCHORS_PER_CELL * CLASSES, *size, generator=random) - 3 for size in SIZES]
    boxes = [torch.randn(batch, ANCHORS_PER_CELL * 4, *size, generator=random) * 0.3 for size in SIZES]
    if steps:
        classes = [(level * steps).round() / steps for level in classes]
    return classes, boxes


def anchors():
    return torch.from_numpy(generate_anchors((128, 160), 3, 5, 1, [1.0, 2.0, 0.5], 4.0))


def flat(levels, image, values):
    return torch.cat([level[image].permute(1, 2, 0).reshape(-1, values) for level in levels])


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("count", [1, 50, 900, 5000, 10**6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_top_scores_equal_a_stable_sort_of_everything(steps, count, layout):
    classes, boxes = outputs(steps=steps)
    given = [level.contiguous(memory_format=layout) for level in classes]
    regressions = [level.contiguous(memory_format=layout) for level in boxes]
    for image, found in enumerate(select(given, regressions, anchors(), CLASSES, count)):
        logits = flat(classes, image, CLASSES).flatten()
        best = torch.sort(logits, descending=True, stable=True).indices[:count].sort().values
        assert torch.equal(found.anchors * CLASSES + found.classes, best)
        torch.testing.assert_close(found.scores, logits[best].sigmoid(), rtol=3e-7, atol=0)
        expected = decode_boxes(flat(boxes, image, 4)[best // CLASSES], anchors()[best // CLASSES])
        torch.testing.assert_close(found.boxes_yxyx, expected, rtol=1e-6, atol=1e-5)


def one_level(logits):
    """The rows of `logits` [anchors, classes] as one level of one anchor per cell."""
    return [torch.from_numpy(logits.T.copy()).reshape(1, logits.shape[1], 30, 40)]


def test_equal_scores_come_in_tensorflows_order():
    logits = logits_case()
    zeros = [torch.zeros(1, 4, 30, 40)]
    (found,) = select(one_level(logits), zeros, torch.ones(1200, 4), 7, 500)
    expected = np.sort(tensorflow_results()["top_k"])
    np.testing.assert_array_equal((found.anchors * 7 + found.classes).numpy(), expected)


def test_best_class_of_every_anchor_is_tensorflows():
    logits = logits_case()
    (found,) = select(one_level(logits), [torch.zeros(1, 4, 30, 40)], torch.ones(1200, 4), 7, 0)
    np.testing.assert_array_equal(found.classes.numpy(), tensorflow_results()["argmax"])
    np.testing.assert_array_equal(found.anchors.numpy(), np.arange(1200))
    expected = tensorflow_results()["sigmoid"].max(axis=1)
    np.testing.assert_allclose(found.scores.numpy(), expected, rtol=1e-6)


def test_best_class_does_not_depend_on_the_memory_format():
    classes, boxes = outputs(steps=2)
    last = [level.contiguous(memory_format=torch.channels_last) for level in classes]
    for one, other in zip(
        select(classes, boxes, anchors(), CLASSES, 0), select(last, boxes, anchors(), CLASSES, 0), strict=True
    ):
        assert torch.equal(one.classes, other.classes) and torch.equal(one.boxes_yxyx, other.boxes_yxyx)


@pytest.mark.parametrize("count", [0, 50, 900])
def test_other_devices_run_the_same_lines(monkeypatch, count):
    """What torch computes on another device, here on the CPU by taking numpy away."""
    classes, boxes = outputs(steps=4)
    expected = select(classes, boxes, anchors(), CLASSES, count)
    monkeypatch.setattr(selection, "_native", lambda tensor: tensor)
    for one, other in zip(select(classes, boxes, anchors(), CLASSES, count), expected, strict=True):
        assert torch.equal(one.anchors, other.anchors) and torch.equal(one.classes, other.classes)
        torch.testing.assert_close(one.scores, other.scores, rtol=3e-7, atol=0)
        torch.testing.assert_close(one.boxes_yxyx, other.boxes_yxyx, rtol=1e-6, atol=1e-5)


def test_decoding_moves_and_grows_the_anchor():
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    regression = torch.tensor([[0.5, -0.25, float(np.log(2.0)), float(np.log(0.5))]])
    expected = torch.tensor([[10.0, 20.0, 50.0, 40.0]])
    torch.testing.assert_close(decode_boxes(regression, anchor), expected)
    np.testing.assert_allclose(decode_boxes(regression.numpy(), anchor.numpy()), expected.numpy(), rtol=1e-6)


def test_sizes_grow_by_tensorflows_exponential():
    regressions = np.zeros((1200, 4), np.float32)
    regressions[:, 2] = logits_case()[:, 0] / 4
    boxes = decode_boxes(regressions, np.tile(np.float32([-0.5, -0.5, 0.5, 0.5]), (1200, 1)))
    np.testing.assert_allclose(boxes[:, 2] * 2, tensorflow_results()["exp"][:, 0], rtol=2e-7)


def test_half_precision_outputs_are_taken():
    classes, boxes = outputs()
    halves = [level.bfloat16() for level in classes], [level.half() for level in boxes]
    found = select(*halves, anchors(), CLASSES, 10)
    assert found[0].boxes_yxyx.dtype == found[0].scores.dtype == torch.float32


def test_logits_that_are_not_numbers_are_refused():
    classes, boxes = outputs()
    classes[1][1, 3, 2, 2] = torch.nan
    with pytest.raises(InputError, match="class outputs: expected numbers, found NaN"):
        select(classes, boxes, anchors(), CLASSES)


def test_outputs_that_do_not_fit_the_anchors_are_refused():
    classes, boxes = outputs()
    with pytest.raises(InputError, match="model outputs: expected 1259 anchors over all levels"):
        select(classes, boxes, anchors()[1:], CLASSES)
