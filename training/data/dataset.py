"""One dataset, whatever it was read from: pictures, boxes in pixels, classes from 1 on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from effdet_model.decoding import decode_image
from training.data.classes import ClassNumbers
from training.data.headers import image_size


@dataclass(frozen=True)
class Example:
    """One picture and its boxes.

    Attributes:
        image: uint8 [H, W, 3] in RGB, decoded as evaluation does.
        boxes_yxyx: float32 [n, 4], (y0, x0, y1, x1) in pixels of the picture, not moved into it; any n.
        classes: int64 [n], from 1 on.
        crowd: bool [n], the box marks a group.
        difficult: bool [n], the data calls the box difficult, or one to ignore.
        image_id: of the dataset. path: the file.
    """

    image: npt.NDArray[np.uint8]
    boxes_yxyx: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    difficult: npt.NDArray[np.bool_]
    image_id: int
    path: Path


@dataclass(frozen=True)
class Picture:
    """What a reader knows of one picture.

    Attributes:
        size: (height, width) as the data says; None where it says nothing.
    """

    image_id: int
    path: Path
    size: tuple[int, int] | None = None


class Box(NamedTuple):
    """One box as a reader gives it: category id of the data, corners as the data means them."""

    image_id: int
    category: int
    corners_yxyx: tuple[float, float, float, float]
    crowd: bool = False
    difficult: bool = False
    area: float | None = None


@dataclass(frozen=True)
class Readout:
    """What a reader makes of its files.

    Attributes:
        categories: category id of the data -> name. relative: corners are fractions of the picture's sides.
        notes: what was filled in or left out, in sentences.
        source: what was read, for messages. format: "coco", "voc", "yolo" or "openimages".
    """

    pictures: tuple[Picture, ...]
    boxes: tuple[Box, ...]
    categories: Mapping[int, str]
    source: Path
    format: str
    relative: bool = False
    notes: tuple[str, ...] = ()


class DetectionDataset:
    """Pictures with boxes, by index.

    Attributes:
        label_map: class id from 1 -> name.
        numbers: which category of the data became which class.
        pictures: of each index. notes: what reading changed or left out, in sentences.
        format, source: what it was read from.
    """

    def __init__(self, readout: Readout, numbers: ClassNumbers) -> None:
        self.pictures = readout.pictures
        self.numbers = numbers
        self.label_map = dict(numbers.label_map)
        self.notes = (*readout.notes, *numbers.notes)
        self.format, self.source, self.relative = readout.format, readout.source, readout.relative
        place = {picture.image_id: index for index, picture in enumerate(self.pictures)}
        boxes = [box for box in readout.boxes if box.category in numbers.classes]
        boxes.sort(key=lambda box: place[box.image_id])
        # Arrays, not lists: worker processes then share them without copying.
        self._corners = np.array([box.corners_yxyx for box in boxes], np.float64).reshape(-1, 4)
        self._classes = np.array([numbers.classes[box.category] for box in boxes], np.int64)
        self._crowd = np.array([box.crowd for box in boxes], np.bool_)
        self._difficult = np.array([box.difficult for box in boxes], np.bool_)
        self._area = np.array([np.nan if box.area is None else box.area for box in boxes], np.float64)
        counts = np.bincount([place[box.image_id] for box in boxes], minlength=len(self.pictures))
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def num_classes(self) -> int:
        """The largest class id: how many classes a model needs."""
        return max(self.label_map, default=0)

    @property
    def num_boxes(self) -> int:
        """Boxes of all pictures, crowds included."""
        return len(self._classes)

    def boxes_of(self, index: int, size: tuple[int, int] | None = None) -> npt.NDArray[np.float64]:
        """float64 [n, 4], (y0, x0, y1, x1) in pixels of a picture.

        Args:
            size: (height, width) as decoded; left out, as the data says, else read from the file's header.

        Raises:
            InputError: boxes are fractions, no size is known, and the file cannot be read.
        """
        corners = self._corners[self._part(index)]
        if not self.relative:
            return corners
        height, width = size or self.size_of(index)
        return corners * np.array([height, width, height, width], np.float64)

    def classes_of(self, index: int) -> npt.NDArray[np.int64]:
        """int64 [n], from 1 on."""
        return self._classes[self._part(index)]

    def crowd_of(self, index: int) -> npt.NDArray[np.bool_]:
        """bool [n]."""
        return self._crowd[self._part(index)]

    def difficult_of(self, index: int) -> npt.NDArray[np.bool_]:
        """bool [n]."""
        return self._difficult[self._part(index)]

    def size_of(self, index: int) -> tuple[int, int]:
        """(height, width) as the data says, else as the file itself has it.

        Raises:
            InputError: the file had to be read and cannot be.
        """
        picture = self.pictures[index]
        return picture.size or image_size(picture.path)

    def __getitem__(self, index: int) -> Example:
        """One picture, decoded.

        Raises:
            InputError: its file is missing or cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        picture = self.pictures[index]
        pixels = decode_image(picture.path)
        boxes = self.boxes_of(index, (pixels.shape[0], pixels.shape[1]))
        return Example(
            pixels, boxes.astype(np.float32), self.classes_of(index).copy(), self.crowd_of(index).copy(),
            self.difficult_of(index).copy(), picture.image_id, picture.path,
        )  # fmt: skip

    def coco_annotations(self) -> dict[str, Any]:
        """COCO's JSON for `verify.evaluation`: images, annotations, categories, with class ids from 1 as categories.

        Boxes that the data calls difficult are crowds there, which the metric does not count either way.

        Raises:
            InputError: as `boxes_of`.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, picture in enumerate(self.pictures):
            height, width = self.size_of(index)
            images.append(
                {"id": picture.image_id, "file_name": str(picture.path), "height": height, "width": width}
            )
            part = self._part(index)
            crowd = self._crowd[part] | self._difficult[part]
            rows = zip(
                self.boxes_of(index, (height, width)).tolist(), self._classes[part].tolist(), crowd.tolist(),
                self._area[part].tolist(), strict=True,
            )  # fmt: skip
            for (y0, x0, y1, x1), class_id, is_crowd, area in rows:
                annotations.append(
                    {
                        "id": len(annotations) + 1, "image_id": picture.image_id, "category_id": class_id,
                        "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": int(is_crowd),
                        "area": area if area == area else (y1 - y0) * (x1 - x0),
                    }
                )  # fmt: skip
        categories = [{"id": class_id, "name": name} for class_id, name in sorted(self.label_map.items())]
        return {"images": images, "annotations": annotations, "categories": categories}

    def subset(self, indices: Iterable[int]) -> DetectionDataset:
        """Some of the pictures, in the order given; classes stay as they are."""
        chosen = list(indices)
        other = object.__new__(DetectionDataset)
        other.__dict__.update(self.__dict__)
        other.pictures = tuple(self.pictures[index] for index in chosen)
        parts = [self._part(index) for index in chosen]
        for name in ("_corners", "_classes", "_crowd", "_difficult", "_area"):
            whole = getattr(self, name)
            setattr(other, name, np.concatenate([whole[:0], *(whole[part] for part in parts)]))
        other._starts = np.concatenate([[0], np.cumsum([part.stop - part.start for part in parts])]).astype(np.int64)
        return other

    def _part(self, index: int) -> slice:
        return slice(int(self._starts[index]), int(self._starts[index + 1]))


def with_notes(readout: Readout, *notes: str) -> Readout:
    """The same with more notes."""
    return dataclasses.replace(readout, notes=(*readout.notes, *notes))
