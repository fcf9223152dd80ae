"""The rungs of the parity ladder: each PyTorch stage against TensorFlow's, alone and as part of the whole.

An image is judged by a conversation: a generator that yields what it still has to ask TensorFlow, which happens only
where the plain comparison leaves a doubt: for the float64 truth where the distance is more than what rounding did to
the first images, and for TensorFlow's own suppression of PyTorch's candidates where a detection has no partner.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from effdet_model.preprocessing import preprocess
from effdet_model.selection import Candidates
from verify.evaluation.store import detections_to_rows
from verify.parity.candidates import Places, compare_candidates
from verify.parity.image import ImageParity, Measure, worst_of
from verify.parity.matching import Rows, match, pair_differences
from verify.parity.port import Outputs, PortSide, ReadImage
from verify.parity.rounding import (
    MULTIPLE,
    OTHER_INPUT,
    ULPS,
    Named,
    Rounding,
    difference,
    exact_allowance,
    own_rounding,
    rounding,
    rounding_allowance,
    score_floor,
)

DECODING, RESIZING, NETWORK = "decoding", "resize and padding", "network"
SELECTION, SUPPRESSION = "box decoding and selection", "suppression"
STAGES = (
    (DECODING, "of 255", "images", "the same bits"),
    (RESIZING, "normalised", "images", "1e-4"),
    (NETWORK, "relative to a level's largest output", "outputs", f"{MULTIPLE:g} x TensorFlow's own rounding"),
    (SELECTION, "pixels", "candidates", f"alone 1e-4, from the file 0.1, or {MULTIPLE:g} x rounding"),
    (SUPPRESSION, "pixels", "detections", f"alone 1e-3, from the file 0.1, or {MULTIPLE:g} x rounding"),
)
"""Name, unit, what is counted, and what is allowed."""
RESIZE_TOLERANCE = 1e-4
_EQUAL = 1e-5

Request = tuple[dict[str, Any], np.ndarray]
Answer = Named
Conversation = Generator[Request, Answer, ImageParity]


class Ladder:
    """All stages of one model.

    Args:
        port: PyTorch's side.

    Attributes:
        learned: TensorFlow's own rounding on the first images, of a level's largest output; None until it is known.
    """

    def __init__(self, port: PortSide) -> None:
        self.port = port
        self.places = Places(port.config, port.anchors.numpy())
        self.learned: dict[str, float] | None = None

    def learn(self, images: Sequence[ImageParity]) -> None:
        """Take TensorFlow's own rounding from the images whose truth is known."""
        known = [image.noise for image in images if image.noise]
        if known:
            self.learned = {name: max(noise[name] for noise in known) for name in known[0]}

    def judge(self, image: ReadImage, own: Outputs | None, theirs: Named) -> Conversation:
        """Compare one image's stages.

        Args:
            own: PyTorch's outputs on its own input; None where it refused the file.
            theirs: TensorFlow's results by name (`TensorFlowPipeline.images`).
        """
        if image.pixels is None or own is None or "refused" in theirs:
            return _refused(image, theirs)
        return _ImageJudge(self, image, own, theirs).run()


def _refused(image: ReadImage, theirs: Named) -> Conversation:
    """An image that a side cannot read: bad where both say so, else a difference in decoding."""
    yield from ()
    words = theirs["refused"].tobytes().decode(errors="replace") if "refused" in theirs else None
    measure = Measure(math.inf, math.inf, 1, 1)
    if image.refused is not None and words is not None:
        return ImageParity.without(image.record.id, image.sha256, image.refused)
    who = "TensorFlow" if words is not None else "PyTorch"
    reason = f"{who} alone refuses it: {words or image.refused}"
    return ImageParity.without(image.record.id, image.sha256, reason, {DECODING: (measure, measure)})


class _ImageJudge:
    """One image that both sides read."""

    def __init__(self, ladder: Ladder, image: ReadImage, own: Outputs, theirs: Named) -> None:
        assert image.pixels is not None and image.input is not None
        self.ladder, self.port, self.config = ladder, ladder.port, ladder.port.config
        self.image, self.own, self.theirs = image, own, theirs
        self.pixels, self.input = image.pixels, image.input
        self.scale = float(theirs["scale"])
        self.measures: dict[str, tuple[Measure, Measure]] = {}
        self.noise: dict[str, float] = {}
        self.ratios: dict[str, float] = {}
        self.own_flips: int | None = None

    def run(self) -> Conversation:
        """All rungs."""
        self._decoding_and_resizing()
        their_outputs = {name: self.theirs[name] for name in self._output_names()}
        noise = yield from self._network(their_outputs)
        reference = _their_candidates(self.theirs)
        levels = self.ladder.places.levels(reference.anchors.numpy())
        anchors = self.ladder.places.anchors[reference.anchors.numpy()]
        allowed = rounding_allowance(
            reference.boxes_yxyx.numpy(), reference.scores.numpy(), anchors, levels, noise, self.config, self.scale
        )
        mine = self.port.candidates(self.own)
        exact = exact_allowance(reference.boxes_yxyx.numpy(), anchors)
        same = self.port.candidates(_as_outputs(their_outputs, self.config.levels))
        places = self.ladder.places
        alone = compare_candidates(places, reference, same, exact, their_outputs, None, None)
        from_file = compare_candidates(
            places, reference, mine, allowed, their_outputs, _as_named(self.own, self.config.levels), noise,
            max_candidates=self.port.profile.max_candidates,
        )  # fmt: skip
        self.measures[SELECTION] = (alone, from_file)
        limits = detection_allowance(
            self.theirs["detections"], reference, np.column_stack((allowed.boxes * self.scale, allowed.scores)),
            self.scale, self.config.image_size if self.port.profile.clip else None,
        )  # fmt: skip
        if "truth" in self.theirs:
            exact_rows = detections_to_rows(self.theirs["truth"])
            rows = detections_to_rows(self.theirs["detections"])
            self.own_flips = len(rows) + len(exact_rows) - 2 * len(match(rows, exact_rows, limits))
        return (yield from self._suppression(reference, mine, limits, candidates_agree=from_file.ok))

    def _decoding_and_resizing(self) -> None:
        decoded = self.theirs["decoded"]
        apart = _largest(decoded, self.pixels)
        measure = Measure.of([apart], 0.0)
        self.measures[DECODING] = (measure, measure)
        same = apart == 0.0
        given, scale = (self.input, self.image.scale) if same else preprocess(decoded, self.config)
        theirs = self.theirs["input"].transpose(2, 0, 1)
        self.measures[RESIZING] = tuple(  # type: ignore[assignment]
            Measure.of([max(_largest(theirs, array.numpy()), abs(factor - self.scale) / self.scale)], RESIZE_TOLERANCE)
            for array, factor in ((given, scale), (self.input, self.image.scale))
        )

    def _output_names(self) -> list[str]:
        return [f"{head}.{level}" for head in ("class", "box") for level in self.config.levels]

    def _network(self, theirs: Named) -> Generator[Request, Answer, Rounding]:
        """Judge the outputs; the rounding of this image."""
        their_input = torch.from_numpy(self.theirs["input"].transpose(2, 0, 1).copy())
        same_input = torch.equal(their_input, self.input)
        on_theirs = self.own if same_input else self.port.outputs([their_input])[0]
        alone, own = (_as_named(outputs, self.config.levels) for outputs in (on_theirs, self.own))
        learned = self.ladder.learned
        if learned is not None:
            noise = rounding(theirs, learned)
            measure = _network_measure(theirs, alone, noise, theirs)
            if measure.ok:
                return self._note_network(theirs, measure, own, noise, theirs, same_input)
        answer = yield {"type": "truth", "scale": self.scale}, self.theirs["input"]
        truth = {name: answer[name] for name in theirs}
        self.noise = own_rounding(theirs, truth)
        self.theirs = {**self.theirs, "truth": answer["detections"]}
        noise = rounding(theirs, self.noise)
        self.ratios = {name: _largest(truth[name], alone[name]) / (noise.noise[name] or 1.0) for name in theirs}
        measure = _network_measure(theirs, alone, noise, truth)
        return self._note_network(theirs, measure, own, noise, truth, same_input)

    def _note_network(
        self, theirs: Named, alone: Measure, own: Named, noise: Rounding, truth: Named, same_input: bool
    ) -> Rounding:
        """Keep both measures; the rounding that what follows may show."""
        wider = noise if same_input else noise.at_least(OTHER_INPUT / MULTIPLE)
        self.measures[NETWORK] = (alone, alone if same_input else _network_measure(theirs, own, wider, truth))
        return wider

    def _suppression(
        self, reference: Candidates, mine: Candidates, limits: np.ndarray, candidates_agree: bool
    ) -> Conversation:
        size = (self.pixels.shape[0], self.pixels.shape[1])
        theirs = detections_to_rows(self.theirs["detections"])
        alone = detections_to_rows(self.port.detections(reference, self.scale, size))
        own = detections_to_rows(self.port.detections(mine, self.image.scale, size))
        strict = strict_limits(theirs)
        resolved = theirs
        if _unpaired(theirs, alone, strict):
            resolved, strict = yield from self._ask_suppression(reference, alone)
        on_theirs = _detection_measure(resolved, alone, strict)
        resolved, allowed, by_rounding = theirs, limits, 0
        lone = _unpaired(theirs, own, limits)
        if lone and candidates_agree:
            resolved, allowed = yield from self._ask_suppression(mine, own)
            by_rounding = lone
        self.measures[SUPPRESSION] = (on_theirs, _detection_measure(resolved, own, allowed))
        return ImageParity(
            self.image.record.id, self.image.sha256, None, self.measures, theirs, own, resolved, allowed, by_rounding,
            self.noise, self.ratios, self.own_flips,
        )  # fmt: skip

    def _ask_suppression(
        self, candidates: Candidates, rows: Rows
    ) -> Generator[Request, Answer, tuple[Rows, np.ndarray]]:
        """(what TensorFlow's suppression makes of these candidates, what may differ).

        Equal scores at the end of a full list are a set: of those that TensorFlow would take, the ones taken by
        PyTorch stand for the ones that TensorFlow happened to take.
        """
        table = np.column_stack((candidates.boxes_yxyx, candidates.scores, candidates.classes)).astype(np.float32)
        answer = yield {"type": "suppress", "scale": self.scale}, table
        found, beyond = (detections_to_rows(answer[name]) for name in ("detections", "beyond"))
        everything = np.concatenate((found, beyond))
        limits = strict_limits(everything)
        paired = {a for a, _ in match(everything, rows, limits)}
        edge = found[:, 4].min(initial=np.inf) * (1 + _EQUAL)
        spare = sum(a >= len(found) for a in paired)
        at_edge = [a for a in range(len(found)) if a not in paired and everything[a, 4] <= edge][:spare]
        kept = [a for a in range(len(everything)) if (a < len(found) and a not in at_edge) or a in paired]
        return everything[kept], limits[kept]


def strict_limits(rows: Rows) -> np.ndarray:
    """[n, 2]: what detections from the very same candidates may differ, in pixels and score."""
    with np.errstate(invalid="ignore", over="ignore"):
        extent = np.nan_to_num(np.abs(rows[:, :4].astype(np.float64)).max(1, initial=0), nan=np.inf)
    scores = rows[:, 4].astype(np.float64)
    return np.column_stack((1e-3 + ULPS * extent, np.minimum(1e-6, score_floor(rows[:, 4])) + 1e-6 * scores))


def detection_allowance(
    detections: np.ndarray, candidates: Candidates, allowed: np.ndarray, scale: float, clip: tuple[int, int] | None
) -> np.ndarray:
    """[n, 2]: what the candidate of each detection may differ, in original pixels and score.

    Args:
        detections: float32 [n, 6] yxyx. allowed: [K, 2] of the candidates.
    """
    boxes = candidates.boxes_yxyx.numpy()
    if clip is not None:
        boxes = np.clip(boxes, 0, np.array([*clip, *clip], np.float32))
    boxes = boxes * np.float32(scale)
    near = np.flatnonzero(np.isin(boxes[:, 0], detections[:, 0]))
    limits: dict[bytes, np.ndarray] = {}
    for row in near:
        key = boxes[row].tobytes()
        limits[key] = np.maximum(limits.get(key, 0), allowed[row])
    floor = np.column_stack((np.full(len(detections), 0.1), score_floor(detections[:, 4])))
    return np.array([
        np.maximum(limits.get(np.ascontiguousarray(row[:4]).tobytes(), floor[i]), floor[i])
        for i, row in enumerate(detections)
    ]).reshape(-1, 2)  # fmt: skip


def _unpaired(theirs: Rows, mine: Rows, limits: np.ndarray) -> int:
    return len(theirs) + len(mine) - 2 * len(match(theirs, mine, limits))


def _detection_measure(reference: Rows, port: Rows, limits: np.ndarray) -> Measure:
    pairs = match(reference, port, limits)
    boxes, scores = pair_differences(reference, port, pairs)
    mine = limits[[a for a, _ in pairs]].reshape(-1, 2)
    used = worst_of(boxes, mine[:, 0], scores, mine[:, 1])
    lone = len(reference) + len(port) - 2 * len(pairs)
    extent = np.maximum(1.0, np.abs(reference[[a for a, _ in pairs], :4]).max(1, initial=0) / 1000)
    with np.errstate(invalid="ignore"):
        largest = float(np.nan_to_num(boxes / extent, nan=0.0).max(initial=0))
    return Measure(math.inf if lone and not pairs else largest, math.inf if lone else used, lone, len(pairs) + lone)


def _network_measure(theirs: Named, mine: Named, noise: Rounding, truth: Named) -> Measure:
    """Outputs against the truth: largest differences, of an output's largest value, and shares of what is allowed."""
    differences, shares = [], []
    for name in theirs:
        apart, allowed = _largest(truth[name], mine[name]), MULTIPLE * noise.noise[name]
        differences.append(apart / (noise.peaks[name] or 1.0))
        shares.append(apart / allowed if allowed else (0.0 if apart == 0 else math.inf))
    return Measure(max(differences), max(shares), sum(not share <= 1 for share in shares), len(theirs))


def _largest(reference: np.ndarray, port: np.ndarray) -> float:
    if tuple(reference.shape) != tuple(port.shape):
        return math.inf
    if reference.dtype == np.uint8:
        return 0.0 if np.array_equal(reference, port) else float(difference(reference, port).max())
    with np.errstate(invalid="ignore", over="ignore"):
        apart = reference - port
    largest = float(max(apart.max(), -apart.min())) if apart.size else 0.0
    return largest if math.isfinite(largest) else float(difference(reference, port).max(initial=0))


def _as_named(outputs: Outputs, levels: Sequence[int]) -> Named:
    """Outputs by name, NHWC without N."""
    return {
        f"{head}.{level}": tensor[0].permute(1, 2, 0).numpy()
        for head, tensors in zip(("class", "box"), outputs, strict=True)
        for level, tensor in zip(levels, tensors, strict=True)
    }


def _as_outputs(named: Mapping[str, np.ndarray], levels: Sequence[int]) -> Outputs:
    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]

    return [tensor(named[f"class.{level}"]) for level in levels], [tensor(named[f"box.{level}"]) for level in levels]


def _their_candidates(theirs: Named) -> Candidates:
    table, places = torch.from_numpy(theirs["candidates"]), torch.from_numpy(theirs["places"])
    return Candidates(table[:, :4].contiguous(), table[:, 4].contiguous(), places[:, 1], places[:, 0])
