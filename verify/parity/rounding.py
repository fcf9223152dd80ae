"""What rounding may do: TensorFlow's own float32 against its float64, and what follows for scores and boxes.

The network in float64 is the truth. How far TensorFlow's float32 is from it, level by level, is the measure for
PyTorch's float32: `MULTIPLE` times that is allowed. Of a right port the largest ratio was 2.3, over a trained model at
128x128, 256x192, 256x256 and 512x512 (`benchmarks/planted_parity_faults.py` measures it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from effdet_model.config import EfficientDetConfig

Floats = npt.NDArray[np.floating]
Named = Mapping[str, np.ndarray]

MULTIPLE = 8.0
"""How many times TensorFlow's own rounding PyTorch may be away from the float64 truth."""
LEAST = 2.0**-22
"""Rounding of a level is taken to be at least this part of its largest output (two units in the last place)."""
OTHER_INPUT = 1e-4
"""What may differ, of a level's largest output, where the two model inputs are not the same bits."""
BOX_FLOOR = 0.1
"""Pixels of the original image, on every side of a box, that may differ where rounding is below."""
SCORE_FLOOR, SCORE_SHARE = 1e-4, 0.01
"""What a score may differ where rounding is below: the first, and for weak ones this part of the score."""
ULPS = 16 * 2.0**-24
"""Arithmetic on a box: this part of the largest coordinate or side that takes part in it."""


@dataclass(frozen=True)
class Rounding:
    """How far TensorFlow's float32 is from its float64, for every output of one image.

    Attributes:
        noise: by output's name ("class.3", "box.7"): the largest distance within a level.
        peaks: the largest absolute value of each.
    """

    noise: Mapping[str, float]
    peaks: Mapping[str, float]

    def of(self, head: str, levels: Sequence[int]) -> Floats:
        """The noise of every level of a head."""
        return np.array([self.noise[f"{head}.{level}"] for level in levels])

    def at_least(self, part: float) -> Rounding:
        """The same, nowhere less than this part of an output's largest value."""
        return Rounding({name: max(v, part * self.peaks[name]) for name, v in self.noise.items()}, self.peaks)


def own_rounding(outputs: Named, truth: Named) -> dict[str, float]:
    """Largest distance of TensorFlow's float32 from its float64, of each level's largest output.

    Args:
        outputs: float32 by name. truth: float64 by the same names.
    """
    return {
        name: max(float(difference(outputs[name], exact).max(initial=0)) / (peak(exact) or 1.0), LEAST)
        for name, exact in truth.items()
    }


def rounding(outputs: Named, relative: Mapping[str, float]) -> Rounding:
    """The rounding of an image with outputs as large as these."""
    peaks = {name: peak(output) for name, output in outputs.items()}
    return Rounding({name: part * peaks[name] for name, part in relative.items()}, peaks)


def peak(values: np.ndarray) -> float:
    """The largest absolute value."""
    return float(max(values.max(), -values.min())) if values.size else 0.0


def difference(one: np.ndarray, other: np.ndarray) -> Floats:
    """Absolute difference in float64; 0 for equal infinities and where both are no number, else infinite there."""
    with np.errstate(invalid="ignore", over="ignore"):
        a, b = one.astype(np.float64), other.astype(np.float64)
        found = np.abs(a - b)
    found[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    found[np.isnan(found)] = np.inf
    return found


def share(found: Floats, allowed: Floats | float) -> Floats:
    """Differences over what is allowed; at most 1 exactly where they are allowed."""
    allowed = np.broadcast_to(allowed, found.shape)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        parts = found / allowed
    parts = np.where(found <= allowed, np.minimum(np.nan_to_num(parts, nan=0.0), 1.0), parts)
    return np.where(np.isnan(parts), np.inf, parts)


@dataclass(frozen=True)
class Allowance:
    """What candidates may differ, one value each: boxes in pixels of the model's input, scores."""

    boxes: Floats
    scores: Floats


def exact_allowance(boxes_yxyx: np.ndarray, anchors: np.ndarray) -> Allowance:
    """For the same outputs: what the arithmetic of decoding and of the sigmoid rounds."""
    return Allowance(1e-4 + ULPS * _extent(boxes_yxyx, anchors), np.full(len(boxes_yxyx), 1e-6))


def rounding_allowance(
    boxes_yxyx: np.ndarray, scores: np.ndarray, anchors: np.ndarray, levels: np.ndarray, noise: Rounding,
    config: EfficientDetConfig, scale: float,
) -> Allowance:
    """For outputs that differ by rounding: carried through decoding and the sigmoid, level by level.

    A box moves by its anchor's side times the noise of its regressions, and grows by its own side times it.

    Args:
        anchors: [K, 4] of the candidates, yxyx. levels: [K], positions in the config's levels.
        scale: original pixels per input pixel.
    """
    of_boxes = MULTIPLE * noise.of("box", list(config.levels))[levels]
    of_logits = MULTIPLE * noise.of("class", list(config.levels))[levels]
    with np.errstate(invalid="ignore", over="ignore"):
        moved = of_boxes * (_sides(anchors) + _sides(boxes_yxyx)) + ULPS * _extent(boxes_yxyx, anchors)
    exact = scores.astype(np.float64)
    return Allowance(
        np.maximum(BOX_FLOOR / scale, np.nan_to_num(moved, nan=np.inf, posinf=np.inf)),
        np.maximum(score_floor(exact), of_logits * exact * (1 - exact)),
    )


def score_floor(scores: np.ndarray) -> Floats:
    """What scores may differ where rounding is below: 1e-4, for those under 0.01 a hundredth of the score."""
    floor: Floats = np.minimum(SCORE_FLOOR, SCORE_SHARE * np.abs(scores.astype(np.float64)))
    return floor


def _sides(boxes: np.ndarray) -> Floats:
    exact = boxes.astype(np.float64)
    sides: Floats = np.maximum(exact[:, 2] - exact[:, 0], exact[:, 3] - exact[:, 1])
    return sides


def _extent(boxes: np.ndarray, anchors: np.ndarray) -> Floats:
    """The largest number that takes part in decoding a box."""
    with np.errstate(invalid="ignore", over="ignore"):
        parts = np.stack((np.abs(boxes.astype(np.float64)).max(1), np.abs(anchors).max(1), _sides(boxes)))
        return np.nan_to_num(parts, nan=np.inf, posinf=np.inf).max(0)
