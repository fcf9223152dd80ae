"""The one way that arrays are compared: largest difference, where, both values; non-finite values always fail."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from verify.diff.result import Difference

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

_CHUNK = 1 << 22
"""Values compared at once; bounds the memory that double-precision copies take."""


MULTIPLE = 10.0
"""How many times TensorFlow's own distance from the truth PyTorch's may be, in float32.

Measured by `python -m benchmarks.rounding`: at most 3.5 over variants, sizes and inputs, with the floors below.
"""
FLOOR_MAX, FLOOR_RMS = 8 * 2.0**-24, 4 * 2.0**-24
"""The least that TensorFlow's own distance counts as: units of rounding of a layer's largest value, and of its root
mean square. TensorFlow may be lucky on a few values; another order of the same sums is not a fault."""


def compare_with_truth(truth: Array, single: Array, port: Array) -> Difference:
    """How far the port's float32 is from float64, held to a multiple of how far TensorFlow's own float32 is.

    Args:
        truth: TensorFlow's float64. single: TensorFlow's float32. port: PyTorch's float32. All of one shape.
    """
    own = compare(truth, single, math.inf)
    found = compare(truth, port, MULTIPLE * max(own.max_rel, FLOOR_MAX))
    return dataclasses.replace(
        found, rms_tolerance=MULTIPLE * max(own.rms_rel, FLOOR_RMS), own_max_rel=own.max_rel, own_rms_rel=own.rms_rel
    )


def compare(reference: Array, port: Array, tolerance: float) -> Difference:
    """How far `port` is from `reference`, worked out in double precision.

    Args:
        reference, port: arrays of the same shape and axis order, NHWC for layers.
        tolerance: the largest absolute difference allowed, relative to the largest absolute reference value.
    """
    import torch

    expected, found = _tensor(reference), _tensor(port)
    shape = tuple(expected.shape)
    if tuple(found.shape) != shape:
        return _unequal_shapes(shape, tuple(found.shape), tolerance)
    if expected.numel() == 0:
        return Difference(shape, 0.0, 0.0, 0.0, 0.0, math.nan, 0.0, (), math.nan, math.nan, tolerance)
    axis = max(range(expected.dim()), key=lambda i: shape[i]) if shape else 0
    if not shape:
        expected, found = expected.reshape(1), found.reshape(1)
    rows = max(1, _CHUNK * expected.shape[axis] // expected.numel())
    sums = torch.zeros(6, dtype=torch.float64)
    bad_port = bad_reference = 0
    largest, peak, worst = -1.0, 0.0, (0,) * expected.dim()
    for start in range(0, expected.shape[axis], rows):
        length = min(rows, expected.shape[axis] - start)
        a = expected.narrow(axis, start, length).to(torch.float64)
        b = found.narrow(axis, start, length).to(torch.float64)
        distance = (a - b).abs()
        bad_reference += int((~torch.isfinite(a)).sum())
        bad_port += int((~torch.isfinite(b)).sum())
        distance = torch.where(torch.isfinite(a) & torch.isfinite(b), distance, math.inf)
        here = float(distance.max())
        if here > largest:
            index = list(np.unravel_index(int(distance.argmax()), tuple(distance.shape)))
            index[axis] += start
            largest, worst = here, tuple(int(i) for i in index)
        peak = max(peak, float(a.abs().max()))
        sums += torch.stack(
            [distance.sum(), a.sum(), (a * b).sum(), (a * a).sum(), (b * b).sum(), (distance * distance).sum()]
        )
    size = expected.numel()
    total, mean, dot, aa, bb, squares = sums.tolist()
    norm = math.sqrt(aa) * math.sqrt(bb) if math.isfinite(aa) and math.isfinite(bb) else 0.0
    return Difference(
        shape=shape,
        max_abs=largest,
        max_rel=_relative(largest, peak),
        mean_abs=total / size,
        mean=mean / size,
        cosine=max(-1.0, min(1.0, dot / norm)) if norm > 0 else math.nan,
        reference_max=peak,
        worst_index=worst if shape else (),
        reference_value=float(expected[worst]),
        port_value=float(found[worst]),
        tolerance=tolerance,
        note=_note(bad_reference, bad_port),
        rms_rel=_relative(math.sqrt(squares), math.sqrt(aa) if math.isfinite(aa) else aa),
    )


def assert_close(name: str, reference: Array, port: Array, tolerance: float) -> Difference:
    """`compare`, and fail where it is beyond tolerance.

    Raises:
        AssertionError: names the layer, the index and both values.
    """
    difference = compare(reference, port, tolerance)
    if not difference.ok:
        raise AssertionError(describe(name, difference))
    return difference


def describe(name: str, difference: Difference) -> str:
    """One line: layer, largest difference, tolerance, index, both values."""
    found = (
        f"{name} {list(difference.shape)}: largest difference {difference.max_abs:.3e} "
        f"({difference.max_rel:.3e} relative, tolerance {difference.tolerance:g}) at index "
        f"{list(difference.worst_index)}: reference {difference.reference_value:.9g}, "
        f"port {difference.port_value:.9g}"
    )
    return f"{found}; {difference.note}" if difference.note else found


def _tensor(array: Array) -> torch.Tensor:
    import torch

    if isinstance(array, torch.Tensor):
        return array.detach().cpu()
    array = np.asarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _relative(largest: float, peak: float) -> float:
    if not math.isfinite(largest) or not math.isfinite(peak):
        return math.inf
    if peak == 0:
        return 0.0 if largest == 0 else math.inf
    return largest / peak


def _note(bad_reference: int, bad_port: int) -> str:
    parts = [("reference", bad_reference), ("port", bad_port)]
    return "; ".join(f"{side} has {count} non-finite values" for side, count in parts if count)


def _unequal_shapes(expected: tuple[int, ...], found: tuple[int, ...], tolerance: float) -> Difference:
    return Difference(
        expected, math.inf, math.inf, math.inf, math.nan, math.nan, math.nan, (), math.nan, math.nan, tolerance,
        note=f"shape: expected {list(expected)}, found {list(found)}", rms_rel=math.inf,
    )
