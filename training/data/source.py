"""Where training data comes from, and which format it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from effdet_model.errors import InputError
from training.data.classes import number_classes, numbered_like
from training.data.coco import read_coco, read_coco_layout
from training.data.dataset import DetectionDataset, Readout

FORMATS = ("auto", "coco", "voc", "yolo", "openimages")


@dataclass(frozen=True)
class DataSource:
    """Where a dataset lies.

    Attributes:
        coco: a folder that has pictures and annotations, as COCO lays it out.
        split: which part of it, e.g. "train2017".
        images, annotations: the folder of pictures and the file (or folder) of annotations, where they lie apart.
        format: "auto" looks at what the files hold.
        skip_bad: leave out entries of the annotations that cannot be used, instead of refusing the file.
    """

    coco: str | Path | None = None
    split: str | None = None
    images: str | Path | None = None
    annotations: str | Path | None = None
    format: str = "auto"
    skip_bad: bool = False


def open_dataset(source: DataSource, like: DetectionDataset | None = None) -> DetectionDataset:
    """The dataset of a source, recognised by what its files hold.

    Args:
        like: the training set, for a validation set: classes are then its classes, found by name.

    Raises:
        InputError: nothing or too much is named, the format is not known, or the data cannot be used.
    """
    readout = _read(source)
    used = {box.category for box in readout.boxes}
    if like is None:
        return DetectionDataset(readout, number_classes(readout.categories, used, readout.source))
    return DetectionDataset(readout, numbered_like(readout.categories, used, like.numbers, readout.source))


def _read(source: DataSource) -> Readout:
    if source.coco is not None:
        if source.images is not None or source.annotations is not None:
            raise InputError("data: expected --coco, or --images and --annotations, found both; leave one out.")
        return read_coco_layout(Path(source.coco), source.split or "train2017", source.skip_bad)
    if source.images is None or source.annotations is None:
        found = "only one of them" if source.images or source.annotations else "neither"
        raise InputError(f"data: expected --coco FOLDER, or --images and --annotations, found {found}; name the data.")
    return read_coco(Path(source.images), Path(source.annotations), source.skip_bad)
