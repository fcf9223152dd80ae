"""The direct proof of the tensors: each value against the variable that TensorFlow used at the same place.

Pairs come from what both networks were seen to do (`verify.diff.observed`); the layout of a value follows from the
operation that uses it. Nothing is shared with `mappings`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from verify.diff.observed import Place, align, reference_places
from verify.diff.result import TensorDifference, TensorProof
from verify.reference.ops import BATCH_NORM, DEPTHWISE, FUSION

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str], np.ndarray]

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class TensorPair:
    """A PyTorch tensor and the TensorFlow variables that TensorFlow used in its place.

    Attributes:
        key: of the state_dict. value: the tensor as float32.
        operation, role: what both networks used it for (`verify.reference.ops`).
    """

    key: str
    value: np.ndarray
    variables: tuple[str, ...]
    operation: str
    role: str

    @property
    def label(self) -> str:
        """The variables' names, shortened where there are several."""
        return self.variables[0] if len(self.variables) == 1 else f"{self.variables[0]} and those after it"

    @property
    def is_kernel(self) -> bool:
        """Whether it is a convolution's."""
        return self.role == "weight" and self.operation != BATCH_NORM


class TensorLedger:
    """What was seen of each layer's tensors, and what follows from it.

    Args:
        state: the model's state_dict.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.pairs: dict[str, list[TensorPair]] = {}
        self.used_variables: set[str] = set()
        self.complete = True
        self._pairings: dict[tuple[str, tuple[str, ...]], TensorPair] = {}
        self._alone: list[TensorDifference] = []

    def note(
        self, layer: str, variables: Sequence[str], uses: Sequence[tuple[str, str]], port: Sequence[Place]
    ) -> None:
        """One layer as both networks ran it: TensorFlow's variables and their uses, PyTorch's places."""
        self.used_variables.update(variables)
        pairs, alone, port_alone = align(list(reference_places(variables, uses)), port)
        self.pairs[layer] = []
        for theirs, mine in pairs:
            if mine.names:
                pair = self._pair(mine.names[0], theirs)
                self.pairs[layer].append(pair)
            else:
                alone.append(theirs)
        self._alone += [_without_partner(layer, place) for place in alone]
        self._alone += [
            _without_partner(layer, place, place.names[0] if place.names else "") for place in port_alone
        ]

    def _pair(self, key: str, place: Place) -> TensorPair:
        known = self._pairings.get((key, place.names))
        if known is None:
            value = self.state[key].detach().cpu().float().numpy()
            known = TensorPair(key, value, place.names, place.operation, place.role)
            self._pairings[key, place.names] = known
        return known

    def proof(self, read: Read, variables: Sequence[str]) -> TensorProof:
        """Every value compared to the bit.

        Args:
            read: gives a variable's array, as the reference got it. variables: all of the checkpoint's.
        """
        wrong: dict[str, np.ndarray] = {}
        differing: list[TensorDifference] = []
        for pair in self._pairings.values():
            expected = expected_layout(pair, [np.asarray(read(name), np.float32) for name in pair.variables])
            unequal = _unequal(expected, pair.value)
            if unequal.any():
                differing.append(_difference(pair, expected, unequal))
                wrong[pair.key] = wrong.get(pair.key, np.False_) | unequal
        paired = {key for key, _ in self._pairings}
        skipped = {
            key: "counts training steps; inference computes nothing with it" for key in self.state if COUNTER in key
        }
        unused = [key for key in self.state if key not in paired and key not in skipped]
        reason = "PyTorch used it nowhere" if self.complete else "PyTorch stopped before it was used"
        told = {item.key for item in self._alone}
        differing += self._alone + [_alone(key, "", reason) for key in unused if key not in told]
        sizes = {key: self.state[key].numel() for key in (*paired, *unused)}
        bad = {key: int(mask.sum()) for key, mask in wrong.items()} | {key: sizes[key] for key in unused}
        compared = sum(sizes.values())
        left = sorted(set(variables) - self.used_variables) if self.complete else []
        return TensorProof(compared, compared - sum(bad.values()), tuple(differing), skipped, tuple(left))

    def wrong_pairs(self, keys: Sequence[str]) -> list[TensorPair]:
        """The pairs of some keys of the state_dict."""
        wanted = set(keys)
        return [pair for pair in self._pairings.values() if pair.key in wanted]


def _unequal(expected: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Where the bits differ; everywhere where the shapes do."""
    if expected.shape != value.shape:
        return np.ones(value.shape, bool)
    bits = [np.ascontiguousarray(array).view(np.uint32).reshape(value.shape) for array in (expected, value)]
    return bits[0] != bits[1]


def _difference(pair: TensorPair, expected: np.ndarray, unequal: np.ndarray) -> TensorDifference:
    names, count = ", ".join(pair.variables), int(unequal.sum())
    if expected.shape != pair.value.shape:
        reason = f"has shape {list(pair.value.shape)}, TensorFlow's has {list(expected.shape)}"
        return TensorDifference(pair.key, names, (), float("nan"), float("nan"), count, reason)
    with np.errstate(invalid="ignore"):
        distance = np.abs(pair.value.astype(np.float64) - expected.astype(np.float64))
    distance = np.where(unequal, np.where(np.isnan(distance), np.inf, distance), -1.0)
    index = tuple(int(i) for i in np.unravel_index(int(distance.argmax()), distance.shape))
    reason = f"{count} of {pair.value.size} values differ from {pair.label}"
    return TensorDifference(
        pair.key, names, index, float(expected[index]), float(pair.value[index]), count, reason
    )


def _without_partner(layer: str, place: Place, key: str | None = None) -> TensorDifference:
    what = f"{place.role} of a {place.operation} in {layer}"
    if key is None:
        reason = f"TensorFlow used it as {what}; PyTorch used no tensor of its state_dict there"
        return _alone("", ", ".join(place.names), reason)
    return _alone(key, "", f"PyTorch used it as {what}; TensorFlow has nothing there")


def _alone(key: str, variable: str, reason: str) -> TensorDifference:
    return TensorDifference(key, variable, (), float("nan"), float("nan"), 0, reason)


def expected_layout(pair: TensorPair, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The pair's TensorFlow arrays as PyTorch must hold them, by the operation that uses them.

    TensorFlow's kernels are [h, w, in, out], depthwise ones [h, w, channels, 1]; PyTorch's [out, in, h, w] and
    [channels, 1, h, w].
    """
    if pair.operation == FUSION:
        return np.stack(list(arrays))
    if pair.is_kernel and arrays[0].ndim == 4:
        return arrays[0].transpose((2, 3, 0, 1) if pair.operation == DEPTHWISE else (3, 2, 0, 1))
    return arrays[0]


def layouts(
    pair: TensorPair, arrays: Sequence[np.ndarray], own: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """What else the arrays could have been turned into, with words for it; the right layout too where `own`."""
    if pair.operation == FUSION:
        for order in itertools.permutations(range(len(arrays))):
            if list(order) != sorted(order):
                yield f"in the order {', '.join(map(str, order))}", np.stack([arrays[i] for i in order])
        return
    array = arrays[0]
    if array.ndim != 4:
        if own and array.shape == pair.value.shape:
            yield "", array
        return
    right = (2, 3, 0, 1) if pair.operation == DEPTHWISE else (3, 2, 0, 1)
    if own:
        yield "", array.transpose(right)
    if pair.value.ndim != 4:
        return
    known: dict[tuple[int, ...], str] = {right[:2] + (right[3], right[2]): "height and width swapped",
             (right[1], right[0]) + right[2:]: "input and output channels swapped"}
    for order in itertools.permutations(range(4)):
        turned = array.transpose(order)
        if order != right and turned.shape == pair.value.shape:
            yield known.get(order, f"axes in the order {order}"), turned
    flipped = array.transpose(right)[:, :, ::-1, ::-1]
    if flipped.shape == pair.value.shape:
        yield "height and width reversed", flipped
    if array.size == pair.value.size:
        yield "its values reshaped instead of transposed", array.reshape(pair.value.shape)


def agrees(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether both have the same shape and values; the same NaN counts as the same."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))
