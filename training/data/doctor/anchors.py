"""Sizes of boxes against anchors: a box that no anchor overlaps by half is learnt from one anchor alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from training.data.doctor.boxes import Rows, Table
from training.data.doctor.report import Finding
from training.targets import MATCH_THRESHOLD, pairwise_iou

_MOST_BOXES = 1000
"""So many boxes are looked at, evenly spread over the data."""
_PAIRS_AT_ONCE = 1 << 22
_TINY = 4.0
"""Pixels of the input below which a box is hardly seen: half of the finest stride."""


def anchor_findings(table: Table, config: EfficientDetConfig) -> Iterator[Finding]:
    """How many boxes, in a picture resized as for evaluation, no anchor matches; and how small they are."""
    boxes, sides = table.boxes, table.sides
    clipped = np.clip(boxes, 0, np.concatenate([sides, sides], 1))
    usable = np.nonzero((clipped[:, 2:] > clipped[:, :2]).all(1) & ~table.crowd)[0]
    if not len(usable):
        return
    scale = np.min(np.array(config.image_size) / sides, axis=1)
    scaled = clipped * scale[:, None]
    tiny = np.zeros(len(boxes), bool)
    tiny[usable] = (scaled[usable, 2:] - scaled[usable, :2]).min(1) < _TINY
    height, width = config.image_size
    if tiny.any():
        count = int(tiny.sum())
        yield Finding(
            "warning" if count > 0.1 * len(usable) else "note", "tiny_boxes",
            f"{count} of {len(usable)} boxes have a side below {_TINY:g} pixels in an input of {height}x{width}; a "
            "larger --image-size shows them better.", count, len(usable), table.places(tiny),
        )  # fmt: skip
    chosen = usable[np.linspace(0, len(usable) - 1, min(len(usable), _MOST_BOXES)).round().astype(int)]
    overlaps = _best_overlaps(scaled[chosen], config)
    missed = np.zeros(len(boxes), bool)
    missed[chosen[overlaps < MATCH_THRESHOLD]] = True
    count = int(missed.sum())
    share = count / len(chosen)
    yield Finding(
        "warning" if share > 0.25 else "note", "unmatched_boxes",
        f"{count} of {len(chosen)} boxes ({share:.0%}) overlap no anchor by half at {height}x{width}, and are learnt "
        f"from their best anchor alone (median best overlap {np.median(overlaps):.2f})"
        + ("; another --image-size, anchor_scale or aspect_ratios may fit better." if share > 0.25 else "."),
        count, len(chosen), table.places(missed) if share > 0.25 else (),
    )  # fmt: skip


def _best_overlaps(boxes: Rows, config: EfficientDetConfig) -> npt.NDArray[np.float32]:
    """float32 [n]: of each box with any anchor."""
    anchors = torch.from_numpy(anchors_from_config(config))
    wanted = torch.from_numpy(boxes.astype(np.float32))
    at_once = max(1, _PAIRS_AT_ONCE // len(anchors))
    parts = [pairwise_iou(part, anchors).max(dim=1).values for part in wanted.split(at_once)]
    return torch.cat(parts).numpy()
