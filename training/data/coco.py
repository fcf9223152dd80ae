"""COCO's JSON as training data; what is sound and what is repaired is the evaluation's decision, in one place."""

from __future__ import annotations

from pathlib import Path

from training.data.dataset import Box, Picture, Readout
from verify.evaluation.coco import CocoDataset, load_annotated, load_coco_layout


def read_coco_layout(folder: Path, split: str, skip_bad: bool = False) -> Readout:
    """A split of a folder as COCO lays it out.

    Raises:
        InputError: as `verify.evaluation.coco.load_coco_layout`.
    """
    return _readout(load_coco_layout(folder, split, skip_bad))


def read_coco(images: Path, annotations: Path, skip_bad: bool = False) -> Readout:
    """Images of a folder and a JSON file in COCO's format.

    Raises:
        InputError: as `verify.evaluation.coco.load_annotated`.
    """
    return _readout(load_annotated(images, annotations, skip_bad=skip_bad))


def _readout(dataset: CocoDataset) -> Readout:
    pictures = tuple(Picture(record.id, record.path, record.size) for record in dataset.images)
    boxes = []
    for annotation in dataset.annotations or ():
        x, y, width, height = annotation["bbox"]
        boxes.append(
            Box(
                annotation["image_id"], annotation["category_id"], (y, x, y + height, x + width),
                crowd=bool(annotation["iscrowd"]), area=float(annotation["area"]),
            )  # fmt: skip
        )
    known = {picture.image_id for picture in pictures}
    kept = tuple(box for box in boxes if box.image_id in known)
    source = dataset.source or dataset.folder or Path()
    return Readout(pictures, kept, dict(dataset.categories), source, "coco", notes=dataset.notes)
