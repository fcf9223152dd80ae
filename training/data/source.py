"""Where training data comes from, and which format it has: that is seen from what the files hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effdet_model.errors import InputError, unknown_name
from training.data.classes import number_classes, numbered_like
from training.data.coco import read_coco, read_coco_layout
from training.data.dataset import DetectionDataset, Readout
from training.data.openimages import is_openimages, read_openimages
from training.data.voc import read_voc, read_voc_folder
from training.data.yolo import DATA_FILES, labels_beside, names_of, read_yolo, read_yolo_file
from verify.evaluation.coco import ANNOTATION_PATTERNS

FORMATS = ("auto", "coco", "voc", "yolo", "openimages")

_SAME_SPLITS = (("train", "train2017"), ("val", "valid", "validation", "val2017"), ("test", "test2017"))
_EXPECTED = (
    "COCO (annotations/instances_SPLIT.json), VOC (Annotations/*.xml), YOLO (data.yaml, or images/ and labels/) or "
    "OpenImages (a CSV file of boxes)"
)


@dataclass(frozen=True)
class DataSource:
    """Where a dataset lies.

    Attributes:
        coco: a folder that has pictures and annotations, laid out as COCO, VOC, YOLO or OpenImages do it.
        split: which part of it, e.g. "train2017", "train", "val".
        images, annotations: the folder of pictures, and the file or folder of annotations, where they lie apart.
        format: one of `FORMATS`; "auto" looks at what the files hold.
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
    if source.format not in FORMATS:
        raise unknown_name("data format", source.format, FORMATS)
    readout = _read(source)
    used = {box.category for box in readout.boxes}
    if like is None:
        return DetectionDataset(readout, number_classes(readout.categories, used, readout.source))
    return DetectionDataset(readout, numbered_like(readout.categories, used, like.numbers, readout.source))


def _read(source: DataSource) -> Readout:
    if source.coco is not None:
        if source.images is not None or source.annotations is not None:
            raise InputError("data: expected --coco, or --images and --annotations, found both; leave one out.")
        return _read_folder(Path(source.coco), source)
    if source.images is None or source.annotations is None:
        found = "only one of them" if source.images or source.annotations else "neither"
        raise InputError(f"data: expected --coco FOLDER, or --images and --annotations, found {found}; name the data.")
    return _read_apart(Path(source.images), Path(source.annotations), source)


def _read_folder(folder: Path, source: DataSource) -> Readout:
    """A folder that has all of a dataset."""
    if not folder.is_dir():
        raise InputError(f"data {folder}: expected a folder with {_EXPECTED}, found none; check the path.")
    splits = list(_splits(source.split))
    found = source.format
    if found in ("auto", "coco"):
        for split in splits:
            if any((folder / pattern.format(split=split)).is_file() for pattern in ANNOTATION_PATTERNS):
                return read_coco_layout(folder, split, source.skip_bad)
        for place in (*(folder / split for split in splits), folder):
            if (place / "_annotations.coco.json").is_file():  # as Roboflow exports it
                return read_coco(place, place / "_annotations.coco.json", source.skip_bad)
    if found in ("auto", "voc") and (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        return read_voc_folder(folder, source.split, source.skip_bad)
    if found in ("auto", "yolo"):
        data = next((folder / name for name in DATA_FILES if (folder / name).is_file()), None)
        if data is not None:
            return read_yolo_file(data, source.split, source.skip_bad)
        for split in splits:
            for images in (folder / "images" / split, folder / split / "images"):
                if images.is_dir() and labels_beside(images) != images:
                    return read_yolo(images, labels_beside(images), skip_bad=source.skip_bad)
        if (folder / "images").is_dir() and (folder / "labels").is_dir() and source.split is None:
            return read_yolo(folder / "images", folder / "labels", skip_bad=source.skip_bad)
    if found in ("auto", "openimages"):
        tables = [path for path in sorted(folder.glob("*.csv")) if is_openimages(path)]
        chosen = [path for path in tables if any(split in path.name for split in splits)] or tables
        images_folder = next((folder / name for name in (*splits, "images") if (folder / name).is_dir()), folder)
        if len(chosen) == 1:
            return read_openimages(images_folder, chosen[0], source.skip_bad)
    if found == "coco":
        return read_coco_layout(folder, source.split or "train2017", source.skip_bad)
    which = f" of the split {source.split}" if source.split else ""
    raise InputError(
        f"data {folder}: expected {_EXPECTED}{which}, found none of these; name the folder of the pictures by --images "
        "and the annotations by --annotations."
    )


def _splits(split: str | None) -> Iterator[str]:
    """The names that a split goes by, its own first; without one, those of training."""
    if split is None:
        yield from ("train2017", "train")
        return
    yield split
    for names in _SAME_SPLITS:
        if split in names:
            yield from (name for name in names if name != split)


def _read_apart(images: Path, annotations: Path, source: DataSource) -> Readout:
    """Pictures and annotations that are named each."""
    kind = source.format if source.format != "auto" else _kind(annotations)
    if kind == "yolo" and annotations.is_file():
        return read_yolo(images, labels_beside(images), names_of(annotations), source.skip_bad)
    if kind == "yolo":
        return read_yolo(images, annotations, skip_bad=source.skip_bad)
    if kind == "voc":
        return read_voc(images, annotations, skip_bad=source.skip_bad)
    if kind == "openimages":
        return read_openimages(images, annotations, source.skip_bad)
    return read_coco(images, annotations, source.skip_bad)


def _kind(annotations: Path) -> str:
    """The format of a file or folder of annotations; COCO's reader says what is wrong with anything else."""
    if annotations.is_dir():
        if next(annotations.rglob("*.xml"), None) is not None:
            return "voc"
        if next(annotations.rglob("*.txt"), None) is not None:
            return "yolo"
        raise InputError(
            f"annotations {annotations}: expected a COCO file, or a folder of VOC's .xml or YOLO's .txt files, found a "
            "folder with neither; check the path."
        )
    if annotations.suffix in (".yaml", ".yml"):
        return "yolo"
    return "openimages" if is_openimages(annotations) else "coco"
