"""Which anchor has to find which box: the training targets of google/automl (tf2/anchors.py, 6a54c87) and effdet.

Overlaps are computed in float32 in the order of the official code, so that the same anchors are chosen where two
overlaps differ by less than rounding, or not at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError, shown, unknown_name

IGNORED = -1
"""The class of a box whose anchors are to count neither as a class nor as background."""

MATCH_THRESHOLD = 0.5
CODERS = ("google", "effdet")
LARGEST_COORDINATE = 1e6
"""Pixels; the area of a box with such corners is still exact enough in float32."""

_PAIRS_AT_ONCE = 1 << 21
"""How many overlaps are held in memory at once."""


class Targets(NamedTuple):
    """What the model should have answered for one image; lists are over levels, finest first.

    Attributes:
        class_targets: int64 [h, w, A]; class index from 0, -1 for background, -2 where not to be counted.
        box_targets: float32 [h, w, A * 4]; each anchor's (ty, tx, th, tw), zeros where no box.
        num_positives: anchors with a box.
    """

    class_targets: list[Tensor]
    box_targets: list[Tensor]
    num_positives: float


class AnchorLabeler:
    """Gives each anchor the box that it overlaps most, where that is at least half; and each box its best anchor.

    Args:
        config: of the model; its `image_size` is the size that the boxes are given for.
        box_coder: "google" keeps sides from 0 by max(1e-8, side), "effdet" by adding 1e-7; boxes of class `IGNORED`
            are not seen at all by "effdet".

    Raises:
        InputError: the box coder is unknown.
    """

    def __init__(self, config: EfficientDetConfig, box_coder: str = "google") -> None:
        if box_coder not in CODERS:
            raise unknown_name("box coder", box_coder, CODERS)
        self.box_coder = box_coder
        self.num_classes = config.num_classes
        self.anchors = torch.from_numpy(anchors_from_config(config))
        sizes = config.feature_sizes()
        self.shapes = [(*sizes[level], config.anchors_per_location) for level in config.levels]

    def __call__(self, boxes_yxyx: Any, classes: Any) -> Targets:
        """Targets of one image.

        Args:
            boxes_yxyx: [n, 4] (y0, x0, y1, x1) in pixels of the model's input; any n, 0 too. Boxes may reach
                beyond the image, and have no area: then they get the first anchor, as in the official code.
            classes: int [n], from 1 on; or `IGNORED`.

        Raises:
            InputError: shapes, numbers or classes that cannot be meant so; y1 < y0 and x1 < x0 too.
        """
        boxes, classes = _checked(boxes_yxyx, classes, self.num_classes)
        if self.box_coder == "effdet":
            boxes, classes = boxes[classes != IGNORED], classes[classes != IGNORED]
        anchors = self.anchors.to(boxes.device)
        matches = match_anchors(boxes, anchors)
        matched = matches >= 0
        class_targets = torch.full_like(matches, -1)
        class_targets[matched] = classes[matches[matched]] - 1
        box_targets = torch.zeros_like(anchors)
        box_targets[matched] = encode_boxes(boxes[matches[matched]], anchors[matched], self.box_coder)
        return Targets(
            self._by_level(class_targets, 1), self._by_level(box_targets, 4), float(matched.sum())
        )

    def _by_level(self, values: Tensor, width: int) -> list[Tensor]:
        counts = [height * wide * anchors for height, wide, anchors in self.shapes]
        return [
            part.reshape(height, wide, anchors * width)
            for part, (height, wide, anchors) in zip(values.split(counts), self.shapes, strict=True)
        ]


def match_anchors(boxes: Tensor, anchors: Tensor) -> Tensor:
    """For each anchor the index of its box, -1 for none: int64 [anchors].

    Where several boxes overlap an anchor equally the first has it; where several want one anchor as their best, too.

    Args:
        boxes, anchors: float32 [n, 4] and [anchors, 4], (y0, x0, y1, x1).
    """
    count = len(boxes)
    if not count:
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    best = torch.full((count,), -1.0, device=boxes.device)
    best_anchor = torch.zeros(count, dtype=torch.int64, device=boxes.device)
    matches = []
    chunk = max(1, _PAIRS_AT_ONCE // count)
    for start in range(0, len(anchors), chunk):
        overlaps = pairwise_iou(boxes, anchors[start : start + chunk])
        value, row = overlaps.max(dim=0)
        matches.append(torch.where(value >= MATCH_THRESHOLD, row, -1))
        value, column = overlaps.max(dim=1)
        best_anchor = torch.where(value > best, column + start, best_anchor)
        best = torch.maximum(best, value)
    forced = torch.full((len(anchors),), count, dtype=torch.int64, device=boxes.device)
    forced.scatter_reduce_(0, best_anchor, torch.arange(count, device=boxes.device), "amin")
    return torch.where(forced < count, forced, torch.cat(matches))


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of [n, 4] and [m, 4] boxes (y0, x0, y1, x1): [n, m]; 0 where they do not meet."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = _areas(first)[:, None] + _areas(second)[None] - intersection
    return torch.where(intersection == 0, 0.0, intersection / union)


def encode_boxes(boxes: Tensor, anchors: Tensor, box_coder: str = "google") -> Tensor:
    """Boxes [n, 4] as (ty, tx, th, tw) of their anchors [n, 4]; both (y0, x0, y1, x1)."""
    (center, size), (center_a, size_a) = _center_and_size(boxes), _center_and_size(anchors)
    if box_coder == "google":
        size, size_a = size.clamp(min=1e-8), size_a.clamp(min=1e-8)
    else:
        size, size_a = size + 1e-7, size_a + 1e-7
    return torch.cat([(center - center_a) / size_a, torch.log(size / size_a)], dim=1)


def decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """(ty, tx, th, tw) [..., 4] of anchors [..., 4] as boxes (y0, x0, y1, x1)."""
    center_a = (anchors[..., :2] + anchors[..., 2:]) / 2
    size_a = anchors[..., 2:] - anchors[..., :2]
    size = torch.exp(codes[..., 2:]) * size_a
    center = codes[..., :2] * size_a + center_a
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + size / 2.0, size


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _checked(boxes_yxyx: Any, classes: Any, num_classes: int) -> tuple[Tensor, Tensor]:
    """float32 [n, 4] and int64 [n], or an error that names the first box that is wrong."""
    boxes = _as_tensor(boxes_yxyx)
    labels = _as_tensor(classes).to(boxes.device)
    if boxes.numel() == 0 and labels.numel() == 0:
        return boxes.new_zeros((0, 4), dtype=torch.float32), labels.new_zeros(0, dtype=torch.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise InputError(
            f"boxes and classes: expected shapes [n, 4] and [n], found {list(boxes.shape)} and {list(labels.shape)}; "
            "give each box as y0, x0, y1, x1 and one class."
        )
    boxes = boxes.to(torch.float32)
    good = (boxes.abs() <= LARGEST_COORDINATE).all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1)  # no NaN is either
    if not bool(good.all()):
        place = int(torch.nonzero(~good)[0])
        raise InputError(
            f"box {place}: expected y0, x0, y1, x1 in pixels with y0 <= y1 and x0 <= x1, found "
            f"{shown(boxes[place].tolist())}; correct the box or the order of its numbers."
        )
    whole = labels.to(torch.int64)
    known = (whole == labels) & (((whole >= 1) & (whole <= num_classes)) | (whole == IGNORED))
    if not bool(known.all()):
        place = int(torch.nonzero(~known)[0])
        raise InputError(
            f"class of box {place}: expected a whole number from 1 to {num_classes}, or {IGNORED} to ignore the box, "
            f"found {shown(labels[place].item())}; classes are numbered from 1 (0 is the background)."
        )
    return boxes, whole


def _as_tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"boxes and classes: expected numbers, n boxes of 4 each and n classes, found {shown(values)}; correct it."
        ) from None
