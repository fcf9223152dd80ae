"""YOLO's text files: a line per box, `class cx cy width height` as fractions of the picture's sides.

Pictures lie in a folder, labels in one beside it, with the same names: images/train/a.jpg and labels/train/a.txt. Names
come from a .yaml file (`names`), classes.txt or obj.names; classes are numbered from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError, shown
from effdet_model.plain_data import read_yaml
from training.data.dataset import Box, Picture, Readout
from training.data.text_files import images_below, read_text

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
DATA_FILES = ("data.yaml", "dataset.yaml", "data.yml")
_MOST_BYTES, _MOST_CLASSES, _LARGEST = 1 << 24, 100_000, 1e4
_SPLIT_NAMES = {"train": ("train", "train2017"), "val": ("val", "valid", "val2017"), "test": ("test",)}


def read_yolo(images: Path, labels: Path, names: Mapping[int, str] | None = None, skip_bad: bool = False) -> Readout:
    """Pictures of a folder with label files of the same names.

    Args:
        labels: the folder of label files; a picture without one has no boxes.
        names: class number from 0 -> name; None: from a file in or above the folder of labels, else the numbers.
        skip_bad: leave out lines that are no boxes.

    Raises:
        InputError: a folder is missing, or a line is no box.
    """
    paths = images_below(images)
    pictures, boxes, notes = [], [], []
    without = skipped = polygons = 0
    for image_id, path in enumerate(paths, 1):
        pictures.append(Picture(image_id, path))
        label = _label_of(path, images, labels)
        if not label.is_file():
            without += 1
            continue
        for number, line in enumerate(read_text(label, "labels", _MOST_BYTES).splitlines(), 1):
            if not line.strip():
                continue
            try:
                class_number, corners, is_polygon = _box(line)
            except ValueError:
                if not skip_bad:
                    raise _no_box(label, number, line) from None
                skipped += 1
                continue
            polygons += is_polygon
            boxes.append(Box(image_id, class_number, corners))
    if without:
        notes.append(f"{without} of {len(paths)} pictures have no label file: they are pictures without boxes.")
    if skipped:
        notes.append(f"{skipped} lines that are no boxes left out.")
    if polygons:
        notes.append(f"{polygons} polygons: the boxes around them are taken.")
    used = {box.category for box in boxes}
    named = dict(names) if names is not None else _names_near(labels)
    if named is None:
        named = {number: str(number) for number in sorted(used)}
        notes.append("No names of classes were found (data.yaml, classes.txt): numbers stand for them.")
    strange = sorted(used - set(named))
    if strange:
        raise InputError(
            f"labels {labels}: expected class numbers that have names ({shown(named)}), found {shown(strange)}; "
            "complete the names."
        )
    return Readout(tuple(pictures), tuple(boxes), named, labels, "yolo", relative=True, notes=tuple(notes))


def read_yolo_file(data: Path, split: str | None, skip_bad: bool = False) -> Readout:
    """What a data.yaml names: `path`, `train` and `val` (a folder of pictures), `names`.

    Raises:
        InputError: the file names no such folder, or as `read_yolo`.
    """
    content = _content(data)
    names = _names(content["names"], data)
    asked = split or "train"
    keys = next((keys for keys in _SPLIT_NAMES.values() if asked in keys), (asked,))
    value = next((content[key] for key in keys if content.get(key) is not None), None)
    if not isinstance(value, str) or "\0" in value or len(value) > 4096:
        raise InputError(
            f"data {data}: expected a folder of pictures as {' or '.join(keys)}, found {shown(value)}; name one."
        )
    root = data.parent / str(content.get("path") or "")
    # Roboflow's files say ../train/images from a folder that they are not in.
    candidates = [root / value, data.parent / value, data.parent / value.removeprefix("../")]
    images = next((folder for folder in candidates if folder.is_dir()), None)
    if images is None:
        raise InputError(f"data {data}: expected the pictures in {candidates[0]}, found no such folder; correct it.")
    return read_yolo(images, labels_beside(images), names, skip_bad)


def names_of(data: Path) -> dict[int, str]:
    """Class number from 0 -> name, of a data.yaml.

    Raises:
        InputError: the file has no names.
    """
    return _names(_content(data)["names"], data)


def _content(data: Path) -> Mapping[str, Any]:
    content = read_yaml(data, "data", text_of="names", expected="a YAML file with train, val and names")
    if not isinstance(content, Mapping) or "names" not in content:
        raise InputError(f"data {data}: expected a YAML file with train, val and names, found {shown(content)}.")
    return content


def labels_beside(images: Path) -> Path:
    """Where YOLO looks for labels: the last `images` of a path becomes `labels`; else the folder itself."""
    parts = list(images.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            folder = Path(*parts[:place], "labels", *parts[place + 1 :])
            return folder if folder.is_dir() else images
    return images


def _label_of(path: Path, images: Path, labels: Path) -> Path:
    return (labels / path.relative_to(images)).with_suffix(".txt")


def _box(line: str) -> tuple[int, tuple[float, float, float, float], bool]:
    """(class number, corners yxyx as fractions, whether they are around a polygon); ValueError for anything else."""
    fields = line.split()
    if len(fields) < 5 or len(fields) > 100_000:
        raise ValueError
    number = float(fields[0])
    values = [float(field) for field in fields[1:]]
    if not number.is_integer() or not 0 <= number < _MOST_CLASSES:
        raise ValueError
    if not all(abs(value) <= _LARGEST for value in values):
        raise ValueError
    if len(values) in (4, 5):  # a fifth is a score
        x, y, width, height = values[:4]
        return int(number), (y - height / 2, x - width / 2, y + height / 2, x + width / 2), False
    if len(values) % 2:
        raise ValueError
    return int(number), (min(values[1::2]), min(values[::2]), max(values[1::2]), max(values[::2])), True


def _no_box(path: Path, number: int, line: str) -> InputError:
    return InputError(
        f"labels {path}, line {number}: expected class, center x, center y, width, height (fractions of the picture), "
        f"found {shown(line)}; correct it, or leave out such lines with --skip-bad-images."
    )


def _names_near(labels: Path) -> dict[int, str] | None:
    """Names from a file in the folder of labels or in one of the three above it."""
    for folder in (labels, *list(labels.resolve().parents)[:3]):
        for name in NAME_FILES:
            if (folder / name).is_file():
                lines = read_text(folder / name, "names", _MOST_BYTES).splitlines()
                return _names([line.strip() for line in lines if line.strip()], folder / name)
        for name in DATA_FILES:
            if (folder / name).is_file():
                content = read_yaml(folder / name, "data", text_of="names", expected="a YAML file with names")
                if isinstance(content, Mapping) and "names" in content:
                    return _names(content["names"], folder / name)
    return None


def _names(value: Any, where: Path) -> dict[int, str]:
    pairs: Iterator[tuple[Any, Any]]
    if isinstance(value, Mapping):
        pairs = iter(value.items())
    elif isinstance(value, list):
        pairs = iter(enumerate(value))
    else:
        raise _no_names(where, value)
    names = {}
    for number, name in pairs:
        whole = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _MOST_CLASSES
        if not whole or isinstance(name, bool) or not isinstance(name, (str, int)) or not 0 < len(str(name)) <= 200:
            raise _no_names(where, (number, name))
        names[number] = str(name)
    if not names:
        raise _no_names(where, value)
    return names


def _no_names(where: Path, found: Any) -> InputError:
    return InputError(f"names {where}: expected a list of class names, or numbers with names, found {shown(found)}.")
