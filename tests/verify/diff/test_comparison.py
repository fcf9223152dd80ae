"""The one comparison: where, how far, and what is never let through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from verify.diff import comparison
from verify.diff.comparison import assert_close, compare, compare_with_truth, describe


def test_largest_difference_with_its_place() -> None:
    reference = np.zeros((1, 2, 3, 4), np.float32)
    reference[0, 1, 2, 3] = -8.0
    port = reference.copy()
    port[0, 1, 0, 2] = 0.5
    found = compare(reference, port, 1e-3)
    assert found.worst_index == (0, 1, 0, 2)
    assert (found.reference_value, found.port_value) == (0.0, 0.5)
    assert found.max_abs == 0.5 and found.max_rel == 0.5 / 8
    assert found.mean_abs == pytest.approx(0.5 / 24)
    assert found.mean == pytest.approx(-8 / 24)
    assert not found.ok


def test_equal_arrays() -> None:
    values = np.random.RandomState(0).standard_normal((1, 5, 6, 7))
    found = compare(values, values.copy(), 0.0)
    assert found.ok and found.max_abs == 0 and found.cosine == pytest.approx(1.0)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.RandomState(1)
    a, b = random.standard_normal((2, 1, 17, 9, 5))
    whole = compare(a, b, 1.0)
    monkeypatch.setattr(comparison, "_CHUNK", 50)
    parts = compare(a, b, 1.0)
    assert (whole.worst_index, whole.max_abs, whole.reference_max) == (
        parts.worst_index, parts.max_abs, parts.reference_max
    )
    assert whole.cosine == pytest.approx(parts.cosine) and whole.mean == pytest.approx(parts.mean)
    expected = np.unravel_index(np.abs(a - b).argmax(), a.shape)
    assert whole.worst_index == tuple(int(i) for i in expected)


def test_takes_tensors_of_any_memory_order() -> None:
    values = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)
    found = compare(values.permute(0, 2, 3, 1).numpy(), values.permute(0, 2, 3, 1), 0.0)
    assert found.ok and found.shape == (1, 3, 4, 2)


def test_cosine_of_opposite_and_of_nothing() -> None:
    ones = np.ones((3, 3))
    assert compare(ones, -ones, 1.0).cosine == pytest.approx(-1.0)
    assert math.isnan(compare(ones, np.zeros((3, 3)), 1.0).cosine)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_never_pass(value: float) -> None:
    good = np.ones((2, 2))
    bad = good.copy()
    bad[1, 0] = value
    for reference, port, side in ((good, bad, "port"), (bad, good, "reference"), (bad, bad.copy(), "port")):
        found = compare(reference, port, math.inf)
        assert not found.ok and math.isinf(found.max_abs) and found.worst_index == (1, 0)
        assert f"{side} has 1 non-finite values" in found.note


def test_zero_reference() -> None:
    zeros = np.zeros(3)
    assert compare(zeros, zeros, 0.0).ok
    assert not compare(zeros, zeros + 1e-30, 1.0).ok


def test_other_shapes_never_pass() -> None:
    found = compare(np.zeros((1, 2)), np.zeros((2, 1)), math.inf)
    assert not found.ok and found.note == "shape: expected [1, 2], found [2, 1]"


def test_scalars() -> None:
    found = compare(np.float64(2.0) * np.ones(()), np.full((), 3.0), 0.1)
    assert found.worst_index == () and found.max_rel == 0.5


def test_a_failure_names_layer_index_and_both_values() -> None:
    with pytest.raises(AssertionError, match=r"box_net.predict.*\[1\]: reference 2, port 2.5"):
        assert_close("box_net.predict", np.array([1.0, 2.0]), np.array([1.0, 2.5]), 1e-3)
    assert "tolerance 0.001" in describe("x", compare(np.ones(1), np.ones(1), 1e-3))


def strayed(size: float, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).normal(0, size, (1, 8, 8, 16))


@pytest.mark.parametrize("own", [1e-6, 1e-3, 7e-2])
def test_float32_is_held_to_a_multiple_of_tensorflows_own_distance(own: float) -> None:
    """Chaotic weights pass where both stray alike; a port that strays much further fails at every size."""
    truth = strayed(1.0, 0)
    single = truth + strayed(own, 1)
    alike = compare_with_truth(truth, single, truth + strayed(own, 2))
    assert alike.ok and not alike.undecided and alike.own_max_rel == compare(truth, single, 1.0).max_rel
    further = compare_with_truth(truth, single, truth + strayed(own * 30, 2))
    assert not further.ok and further.excess > 2


def test_a_fault_in_few_values_shows_by_the_largest_one() -> None:
    truth = strayed(1.0, 0)
    port = truth.copy()
    port[0, 3, 3, 3] += 1e-2
    found = compare_with_truth(truth, truth + strayed(1e-6, 1), port)
    assert not found.ok and found.worst_index == (0, 3, 3, 3) and found.max_rel > found.tolerance


def test_a_lucky_reference_does_not_fail_the_port() -> None:
    """TensorFlow's float32 may hit the truth exactly; a few units of rounding are no fault."""
    truth = strayed(1.0, 0)
    assert compare_with_truth(truth, truth, truth.astype(np.float32)).ok
    assert not compare_with_truth(truth, truth, truth + strayed(1e-4, 1)).ok


def test_where_tensorflow_itself_strays_as_far_as_its_values_nothing_is_decided() -> None:
    truth = strayed(1.0, 0)
    lost = compare_with_truth(truth, truth + strayed(0.2, 1), truth + strayed(0.2, 2))
    assert lost.ok and lost.undecided
    assert not compare_with_truth(truth, truth + strayed(0.2, 1), truth * np.nan).ok
