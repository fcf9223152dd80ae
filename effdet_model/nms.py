"""Suppression of overlapping boxes by named profile: exact, and fast because it stops at the last detection.

`suppress` works on one image's candidates, `postprocess` on a batch of the model's outputs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise

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
    official_ties: bool = True,
) -> Floats:
    """Detections of one image as float32 [n, 6]: (y0, x0, y1, x1, score, category id), best score first.

    Boxes are in pixels of the original image: those of the model's input times `image_scale`. n is at most the
    profile's max_output_size; nothing is padded. Equal scores: the lower class first, then the earlier pick, as
    TensorFlow's top_k (what `combined`'s own op does with them is nowhere said); in the numpy family the order in
    which numpy's default sort leaves all picks of all classes, as in nms_np.py. That needs all of them;
    official_ties=False keeps the lower class first.
    image_size (height, width) of the model's input is needed by profiles that clip to it (global and combined);
    original_size (height, width) lets `torchvision` clip boxes to the image beforehand, as the ports do.
    """
    profile = resolve_profile(profile)
    if profile.family == "torchvision":
        return _suppress_torchvision(profile, candidates, image_scale, original_size)
    boxes = np.ascontiguousarray(candidates.boxes_yxyx.cpu().numpy(), np.float32)
    scores = np.ascontiguousarray(candidates.scores.cpu().numpy(), np.float32)
    classes = candidates.classes.cpu().numpy()
    picked, final_scores = pick_detections(profile, boxes, scores, classes, official_ties)
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
    # Logits of 16 bits are often equal, and no official ones: there the order costs time and means nothing.
    official_ties = class_outputs[0].dtype in (torch.float32, torch.float64)
    results = []
    for image, candidates in enumerate(batch):
        original = original_sizes[image] if original_sizes is not None else None
        found = suppress(profile, candidates, image_scales[image], image_size, original, official_ties)
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
    profile: NmsProfile, boxes_yxyx: Floats, scores: Floats, classes: Indices, official_ties: bool = True
) -> tuple[Indices, Floats]:
    """(indices of the candidates that are kept, their final scores), in the order of detection.

    One loop over all classes: it always picks from the class with the highest score left and ends after
    max_output_size picks, so the classes' other boxes are never looked at, unless equal scores among the detections,
    or at their end, need the official order (`suppress`).
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
        corners = low[members].T, high[members].T
        numpys_order = profile.family == "numpy" and official_ties
        return _pick_from_groups(profile, members, starts, *corners, scores[members], numpys_order)


def _of_image(levels: Sequence[Tensor], image: int) -> list[Tensor]:
    return [level[image : image + 1] for level in levels]


def _pick_from_groups(
    profile: NmsProfile,
    members: Indices,
    starts: Indices,
    low: Floats,
    high: Floats,
    scores: Floats,
    numpys_order: bool,
) -> tuple[Indices, Floats]:
    """The picks of all groups, best first.

    Args:
        numpys_order: where scores are equal, let numpy's default sort of all picks of all classes, which is not
            stable, say which come first and which are the last to stay, as google/automl's nms_np.py does.
    """
    make = group_type(profile)
    heads = np.maximum.reduceat(scores, starts)
    queue = [(-head, number) for number, head in enumerate(heads.tolist())]
    heapq.heapify(queue)
    begins, ends = starts.tolist(), [*starts[1:].tolist(), len(scores)]
    groups: dict[int, Group] = {}
    picked: list[tuple[int, int, float]] = []  # (group, member, score)

    def pick() -> None:
        """Take the next of all groups, and put the group's own next in its place."""
        number = queue[0][1]
        if number not in groups:
            inside = slice(begins[number], ends[number])
            groups[number] = make(profile, low[:, inside], high[:, inside], scores[inside])
        position, score = groups[number].pick()
        picked.append((number, begins[number] + position, score))
        head = groups[number].head
        if head is None:
            heapq.heappop(queue)
        else:
            heapq.heapreplace(queue, (-head, number))

    while queue and len(picked) < profile.max_output_size:
        pick()
    final = [score for _, _, score in picked]
    if numpys_order and any(score == after for score, after in pairwise((*final, *(-head for head, _ in queue[:1])))):
        while queue:
            pick()
        picked.sort(key=lambda one: one[0])  # stable: class after class, each in order of picking
        order = np.argsort(-np.array([score for _, _, score in picked]))
        picked = [picked[place] for place in order[: profile.max_output_size]]
    return members[[member for _, member, _ in picked]], np.array([score for _, _, score in picked], np.float32)


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
