"""Suppression of overlapping boxes by named profile: exact, and fast because it stops at the last detection.

`suppress` works on one image's candidates, `postprocess` on a batch of the model's outputs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from effdet_model.nms_groups import Floats, Group, group_type
from effdet_model.nms_profiles import MAX_DETECTION_POINTS, NmsProfile, resolve_profile
from effdet_model.selection import Candidates, select

Indices = npt.NDArray[np.int64]
CLASS_OFFSET = 1
"""Class index 0 is category id 1 (tf2/postprocess.py)."""


def suppress(
    profile: str | NmsProfile,
    candidates: Candidates,
    image_scale: float = 1.0,
    image_size: tuple[int, int] | None = None,
    original_size: tuple[int, int] | None = None,
) -> Floats:
    """Detections of one image as float32 [n, 6]: (y0, x0, y1, x1, score, category id), best score first.

    Boxes are in pixels of the original image: those of the model's input times `image_scale`. n is at most the
    profile's max_output_size; nothing is padded. Equal scores: the lower class first, then the earlier pick.
    image_size (height, width) of the model's input is needed by profiles that clip to it (global and combined);
    original_size (height, width) lets `torchvision` clip boxes to the image beforehand, as the ports do.
    """
    profile = resolve_profile(profile)
    if profile.family == "torchvision":
        return _suppress_torchvision(profile, candidates, image_scale, original_size)
    boxes = np.ascontiguousarray(candidates.boxes_yxyx.cpu().numpy(), np.float32)
    scores = np.ascontiguousarray(candidates.scores.cpu().numpy(), np.float32)
    classes = candidates.classes.cpu().numpy()
    picked, final_scores = pick_detections(profile, boxes, scores, classes)
    kept = boxes[picked]
    if profile.clip:
        if image_size is None:
            raise TypeError(f"suppression {profile.name} clips boxes and needs image_size")
        kept = np.clip(kept, 0, np.array([*image_size, *image_size], np.float32))
    return _detections(kept * np.float32(image_scale), final_scores, classes[picked])


def postprocess(
    profile: str | NmsProfile,
    class_outputs: Sequence[Tensor],
    box_outputs: Sequence[Tensor],
    anchors_yxyx: Tensor,
    num_classes: int,
    image_scales: Sequence[float],
    image_size: tuple[int, int],
    original_sizes: Sequence[tuple[int, int]] | None = None,
) -> list[Floats]:
    """`select` and `suppress` for a batch: one array [n, 6] per image, as `suppress` gives it."""
    profile = resolve_profile(profile)
    total = len(anchors_yxyx) * num_classes
    count = MAX_DETECTION_POINTS if profile.max_candidates is None else profile.max_candidates
    batch = select(class_outputs, box_outputs, anchors_yxyx, num_classes, count)
    results = []
    for image, candidates in enumerate(batch):
        original = original_sizes[image] if original_sizes is not None else None
        found = suppress(profile, candidates, image_scales[image], image_size, original)
        wanted = count
        while profile.max_candidates is None and len(found) < profile.max_output_size and wanted < total:
            # Candidates end where others may follow: only a full list of detections is final.
            wanted = min(wanted * 8, total)
            classes, boxes = _of_image(class_outputs, image), _of_image(box_outputs, image)
            (more,) = select(classes, boxes, anchors_yxyx, num_classes, wanted)
            found = suppress(profile, more, image_scales[image], image_size, original)
        results.append(found)
    return results


def pick_detections(
    profile: NmsProfile, boxes_yxyx: Floats, scores: Floats, classes: Indices
) -> tuple[Indices, Floats]:
    """(indices of the candidates that are kept, their final scores), in the order of detection.

    One loop over all classes: it always picks from the class with the highest score left and ends after
    max_output_size picks, so the classes' other boxes are never looked at.
    """
    members = np.arange(len(scores))
    if profile.family == "graph":
        if profile.score_threshold is not None:
            members = np.flatnonzero(scores > np.float32(profile.score_threshold))
        first, second = boxes_yxyx[:, :2], boxes_yxyx[:, 2:]
        low, high = np.minimum(first, second), np.maximum(first, second)
    else:
        low, high = boxes_yxyx[:, :2], boxes_yxyx[:, 2:]
    if profile.per_class:
        members = members[np.argsort(classes[members].astype(np.int32), kind="stable")]
        starts = np.flatnonzero(np.diff(classes[members], prepend=-1))
    else:
        starts = np.zeros(min(1, len(members)), np.int64)
    if not len(members):
        return members, scores[:0]
    with np.errstate(all="ignore"):
        return _pick_from_groups(profile, members, starts, low[members].T, high[members].T, scores[members])


def _of_image(levels: Sequence[Tensor], image: int) -> list[Tensor]:
    return [level[image : image + 1] for level in levels]


def _pick_from_groups(
    profile: NmsProfile, members: Indices, starts: Indices, low: Floats, high: Floats, scores: Floats
) -> tuple[Indices, Floats]:
    make = group_type(profile)
    heads = np.maximum.reduceat(scores, starts)
    queue = [(-head, number) for number, head in enumerate(heads.tolist())]
    heapq.heapify(queue)
    ends = [*starts[1:].tolist(), len(scores)]
    begins = starts.tolist()
    groups: dict[int, Group] = {}
    picked: list[int] = []
    final: list[float] = []
    while queue and len(picked) < profile.max_output_size:
        number = queue[0][1]
        begin = begins[number]
        if number not in groups:
            inside = slice(begin, ends[number])
            groups[number] = make(profile, low[:, inside], high[:, inside], scores[inside])
        group = groups[number]
        position, score = group.pick()
        picked.append(begin + position)
        final.append(score)
        head = group.head
        if head is None:
            heapq.heappop(queue)
        else:
            heapq.heapreplace(queue, (-head, number))
    return members[picked], np.array(final, np.float32)


def _suppress_torchvision(
    profile: NmsProfile, candidates: Candidates, image_scale: float, original_size: tuple[int, int] | None
) -> Floats:
    from torchvision.ops import batched_nms

    boxes = candidates.boxes_yxyx
    if original_size is not None:
        limits = boxes.new_tensor([*original_size, *original_size]) / image_scale
        boxes = torch.minimum(boxes.clamp(min=0), limits)
    boxes_xyxy = boxes[:, [1, 0, 3, 2]]
    kept = batched_nms(boxes_xyxy, candidates.scores, candidates.classes, profile.iou_threshold)
    kept = kept[: profile.max_output_size]
    rows = (boxes[kept] * image_scale, candidates.scores[kept], candidates.classes[kept])
    return _detections(*(row.cpu().numpy() for row in rows))


def _detections(boxes: Floats, scores: Floats, classes: Indices) -> Floats:
    return np.column_stack((boxes, scores, classes + CLASS_OFFSET)).astype(np.float32)
