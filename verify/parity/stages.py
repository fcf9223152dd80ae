"""The rungs of the parity ladder: each PyTorch stage against TensorFlow's, alone and as part of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.efficientdet import EfficientDet
from effdet_model.nms import suppress
from effdet_model.nms_profiles import NmsProfile
from effdet_model.preprocessing import preprocess
from effdet_model.selection import Candidates, select
from verify.evaluation.store import detections_to_rows
from verify.parity.matching import BOX_TOLERANCE, SCORE_TOLERANCE, Rows, match
from verify.parity.result import StageDifference, StageResult

Named = Mapping[str, np.ndarray]
_Outputs = tuple[list[Tensor], list[Tensor]]

DECODING, RESIZING, NETWORK = "decoding", "resize and padding", "network"
SELECTION, SUPPRESSION = "box decoding and selection", "suppression"
STAGES = (
    (DECODING, "of 255", "images", 0.0),
    (RESIZING, "normalised", "images", 1e-4),
    (NETWORK, "relative to a level's largest output", "outputs", 1e-4),
    (SELECTION, "pixels", "candidates", 1e-3),
    (SUPPRESSION, "pixels", "detections", 1e-3),
)
"""Name, unit, what is counted, and the largest difference allowed on TensorFlow's own input."""
_SCORE_TOLERANCE = 1e-6
_FROM_FILE = {SELECTION: BOX_TOLERANCE, SUPPRESSION: BOX_TOLERANCE}
"""What is allowed where the network's rounding comes before; as for pairs of detections."""


@dataclass
class StageTally:
    """One stage's differences, image after image."""

    tolerance: float
    largest: float = 0.0
    differing: int = 0
    items: int = 0
    worst_image: str | None = None

    def add(self, image: str, differences: Sequence[float], unpaired: int = 0) -> None:
        """Note one image's items: their differences, and how many have no counterpart."""
        worst = max(differences, default=0.0)
        if unpaired and not differences:
            worst = math.inf
        self.items += len(differences) + unpaired
        self.differing += sum(not value <= self.tolerance for value in differences) + unpaired
        if not worst <= self.largest:
            self.largest, self.worst_image = (math.inf if math.isnan(worst) else worst), image

    def result(self) -> StageDifference:
        """The sum of it."""
        return StageDifference(self.largest, self.tolerance, self.differing, self.items, self.worst_image)


@dataclass
class Ladder:
    """All stages of one model; `climb` takes one image after another.

    Attributes:
        model: in eval mode, on the CPU. profile: of suppression.
    """

    model: EfficientDet
    profile: NmsProfile
    alone: dict[str, StageTally] = field(default_factory=dict)
    from_file: dict[str, StageTally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.anchors = torch.from_numpy(anchors_from_config(self.model.config))
        for name, _, _, tolerance in STAGES:
            self.alone[name] = StageTally(tolerance)
            self.from_file[name] = StageTally(_FROM_FILE.get(name, tolerance))

    @property
    def config(self) -> EfficientDetConfig:
        """Of the model."""
        return self.model.config

    def refused(self, image: str) -> None:
        """Note that only one side could read an image."""
        for tally in (self.alone[DECODING], self.from_file[DECODING]):
            tally.add(image, [], unpaired=1)

    def climb(self, image: str, pixels: np.ndarray, theirs: Named) -> tuple[Rows, Rows]:
        """Compare one image's stages; (TensorFlow's, PyTorch's) detections as rows of the detections store.

        Args:
            pixels: uint8 [h, w, 3], as PyTorch's side decoded the file.
            theirs: TensorFlow's results by name (`TensorFlowPipeline.layers`).
        """
        decoded = theirs["decoded"]
        self._both(DECODING, image, [_largest(decoded, pixels)])
        same = pixels.shape == decoded.shape and bool((pixels == decoded).all())
        mine, scale = preprocess(pixels, self.config)
        given = mine if same else preprocess(decoded, self.config)[0]
        their_input = torch.from_numpy(theirs["input"].transpose(2, 0, 1).copy())
        their_scale = float(theirs["scale"])
        self.alone[RESIZING].add(image, [_largest(their_input, given)])
        self.from_file[RESIZING].add(image, [max(_largest(their_input, mine), abs(scale - their_scale))])
        outputs = self._network(image, theirs, their_input, mine)
        candidates = self._selection(image, theirs, outputs)
        return self._suppression(image, theirs, candidates, scale, (pixels.shape[0], pixels.shape[1]))

    def results(self) -> tuple[StageResult, ...]:
        """Every stage, in order."""
        return tuple(
            StageResult(name, unit, items, self.alone[name].result(), self.from_file[name].result())
            for name, unit, items, _ in STAGES
        )

    def _both(self, stage: str, image: str, differences: Sequence[float]) -> None:
        self.alone[stage].add(image, differences)
        self.from_file[stage].add(image, differences)

    def _network(self, image: str, theirs: Named, their_input: Tensor, mine: Tensor) -> _Outputs:
        on_theirs = self._run(their_input)
        own = on_theirs if torch.equal(their_input, mine) else self._run(mine)
        for tally, outputs in ((self.alone, on_theirs), (self.from_file, own)):
            differences = [
                _relative(_nchw(theirs[f"{head}.{level}"]), tensor)
                for head, tensors in zip(("class", "box"), outputs, strict=True)
                for level, tensor in zip(self.config.levels, tensors, strict=True)
            ]
            tally[NETWORK].add(image, differences)
        return own

    def _run(self, image: Tensor) -> _Outputs:
        with torch.inference_mode():
            return self.model(image[None])

    def _selection(self, image: str, theirs: Named, own: _Outputs) -> Candidates:
        """PyTorch's candidates from its own outputs."""
        reference = _their_candidates(theirs)
        their_outputs = (
            [_nchw(theirs[f"class.{level}"]) for level in self.config.levels],
            [_nchw(theirs[f"box.{level}"]) for level in self.config.levels],
        )
        mine = self._select(own)
        for tally, candidates, limit in (
            (self.alone, self._select(their_outputs), _SCORE_TOLERANCE),
            (self.from_file, mine, SCORE_TOLERANCE),
        ):
            differences, unpaired = _compare_candidates(reference, candidates, limit)
            tally[SELECTION].add(image, differences, unpaired)
        return mine

    def _select(self, outputs: _Outputs) -> Candidates:
        limit = self.profile.max_candidates
        count = len(self.anchors) * self.config.num_classes if limit is None else limit
        return select(*outputs, self.anchors, self.config.num_classes, count)[0]

    def _suppression(
        self, image: str, theirs: Named, own: Candidates, scale: float, size: tuple[int, int]
    ) -> tuple[Rows, Rows]:
        reference = detections_to_rows(theirs["detections"])
        their_scale = float(theirs["scale"])
        alone = self._suppress(_their_candidates(theirs), their_scale, size)
        mine = self._suppress(own, scale, size)
        for tally, rows in ((self.alone, alone), (self.from_file, mine)):
            pairs = match(reference, rows)
            a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            differences = np.abs(reference[a, :4] - rows[b, :4]).max(1) if pairs else np.zeros(0)
            tally[SUPPRESSION].add(image, differences.tolist(), max(len(reference), len(rows)) - len(pairs))
        return reference, mine

    def _suppress(self, candidates: Candidates, scale: float, size: tuple[int, int]) -> Rows:
        found = suppress(self.profile, candidates, scale, self.config.image_size, size)
        return detections_to_rows(found)


def _largest(reference: np.ndarray | Tensor, port: np.ndarray | Tensor) -> float:
    if tuple(reference.shape) != tuple(port.shape):
        return math.inf
    a, b = (np.asarray(array, np.float64) for array in (reference, port))
    return float(np.abs(a - b).max(initial=0))


def _relative(reference: Tensor, port: Tensor) -> float:
    peak = float(reference.abs().max())
    distance = _largest(reference, port)
    return distance / peak if peak else (0.0 if distance == 0 else math.inf)


def _nchw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]


def _their_candidates(theirs: Named) -> Candidates:
    table, places = torch.from_numpy(theirs["candidates"]), torch.from_numpy(theirs["places"])
    return Candidates(table[:, :4].contiguous(), table[:, 4].contiguous(), places[:, 1], places[:, 0])


def _compare_candidates(
    reference: Candidates, port: Candidates, score_tolerance: float
) -> tuple[list[float], int]:
    """(differences of the candidates that both have, how many only one has).

    A difference is in pixels, per thousand pixels for coordinates beyond 1000; one in the score beyond its tolerance
    counts as infinite.
    """
    classes = max(_top(reference), _top(port)) + 1
    a = (reference.anchors * classes + reference.classes).numpy()
    b = (port.anchors * classes + port.classes).numpy()
    common, left, right = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    boxes_a, boxes_b = reference.boxes_yxyx.numpy()[left], port.boxes_yxyx.numpy()[right]
    scale = np.maximum(1.0, np.abs(boxes_a.astype(np.float64)) / 1000)
    boxes = (np.abs(boxes_a.astype(np.float64) - boxes_b) / scale).max(1, initial=0)
    scores = np.abs(reference.scores.numpy()[left].astype(np.float64) - port.scores.numpy()[right])
    boxes[~(scores <= score_tolerance)] = math.inf
    return boxes.tolist(), max(len(a), len(b)) - len(common)


def _top(candidates: Candidates) -> int:
    return int(candidates.classes.max()) if len(candidates) else 0
