"""Pascal VOC's XML files: one for each picture, corners in pixels.

The XML parser here refuses document types, and with them entities: nothing in a file can grow or name another file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from effdet_model.errors import InputError, shown
from effdet_model.labels import VOC
from training.data.dataset import Box, Picture, Readout
from training.data.text_files import images_below, read_text
from verify.evaluation.annotations.values import LARGEST_SIDE, finite_number, flag

_MOST_BYTES, _MOST_LIST_BYTES = 1 << 24, 1 << 28
_CORNERS = ("ymin", "xmin", "ymax", "xmax")


class _NoBoxError(Exception):
    """An object that is no box: what was expected, and what was found."""


def read_voc_folder(folder: Path, split: str | None, skip_bad: bool = False) -> Readout:
    """A folder with Annotations/, JPEGImages/ and, for splits, ImageSets/Main/SPLIT.txt.

    Raises:
        InputError: a folder or the split's list is missing, or as `read_voc`.
    """
    names = None
    if split is not None and (folder / "ImageSets" / "Main").is_dir():
        listed = folder / "ImageSets" / "Main" / f"{split}.txt"
        lines = read_text(listed, "list of images", _MOST_LIST_BYTES).splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
    return read_voc(folder / "JPEGImages", folder / "Annotations", names, skip_bad)


def read_voc(
    images: Path, annotations: Path, names: Sequence[str] | None = None, skip_bad: bool = False
) -> Readout:
    """Pictures of a folder with XML files of the same names in another (or the same).

    VOC counts pixels from 1, and its boxes include their last pixel; files that have a corner at 0 count from 0.

    Args:
        names: of the pictures that are taken, without suffix; None: all.
        skip_bad: leave out objects that are no boxes.

    Raises:
        InputError: a folder is missing, a file is no such XML, or an object is no box.
    """
    paths = {path.relative_to(images).with_suffix("").as_posix(): path for path in images_below(images)}
    taken = list(paths) if names is None else list(names)
    missing = [name for name in taken if name not in paths]
    if missing:
        raise InputError(
            f"images {images}: expected a picture for each of the {len(taken)} names of the list, found none for "
            f"{len(missing)} ({shown(missing[0])}, ...); check the folder."
        )
    pictures, found, notes = [], [], []
    without = skipped = 0
    for image_id, name in enumerate(taken, 1):
        source = annotations / f"{name}.xml"
        if not source.is_file():
            without += 1
            pictures.append(Picture(image_id, paths[name]))
            continue
        root = read_xml(source)
        pictures.append(Picture(image_id, paths[name], _size(root)))
        for number, item in enumerate(root.findall("object"), 1):
            try:
                found.append((image_id, *_object(item)))
            except _NoBoxError as error:
                if not skip_bad:
                    expected, value = error.args
                    raise InputError(
                        f"annotations {source}: expected {expected}, found {value} in object {number}; correct it, or "
                        "leave out such objects with --skip-bad-images."
                    ) from None
                skipped += 1
    if without:
        notes.append(f"{without} of {len(taken)} pictures have no XML file: they are pictures without boxes.")
    if skipped:
        notes.append(f"{skipped} objects that are no boxes left out.")
    first = 0 if any(min(corners[:2]) < 1 for _, _, corners, _ in found) else 1
    notes.append(f"Pixels are counted from {first}" + (", as in VOC." if first else ": some boxes begin at 0."))
    numbers = _numbers({name for _, name, _, _ in found})
    boxes = tuple(
        Box(image_id, numbers[name], (y0 - first, x0 - first, y1, x1), difficult=difficult)
        for image_id, name, (y0, x0, y1, x1), difficult in found
    )
    categories = {number: name for name, number in numbers.items()}
    return Readout(tuple(pictures), boxes, categories, annotations, "voc", notes=tuple(notes))


def _numbers(names: set[str]) -> dict[str, int]:
    """VOC's own numbers where all names are VOC's; else from 1 by name."""
    official = {name: number for number, name in VOC.items()}
    if names and names <= set(official):
        return official
    return {name: place for place, name in enumerate(sorted(names), 1)}


def read_xml(path: Path) -> Element:
    """The root of an XML file that has no document type.

    Raises:
        InputError: the file cannot be read, is no XML, or has a document type.
    """
    text = read_text(path, "annotations", _MOST_BYTES)
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: Any) -> None:
        raise InputError(
            f"annotations {path}: expected plain XML, found a document type (<!DOCTYPE>), whose entities could be "
            "anything; remove it."
        )

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text.encode(), True)
        return builder.close()
    except expat.ExpatError as error:
        raise InputError(f"annotations {path}: expected XML, found: {error}; correct or remove the file.") from None


def _size(root: Element) -> tuple[int, int] | None:
    height, width = (finite_number(root.findtext(f"size/{side}"), LARGEST_SIDE) for side in ("height", "width"))
    return (int(height), int(width)) if height and width and min(height, width) >= 1 else None


def _object(item: Element) -> tuple[str, tuple[float, float, float, float], bool]:
    """(name, corners yxyx as they are written, difficult)."""
    name = (item.findtext("name") or "").strip()
    if not 0 < len(name) <= 200:
        raise _NoBoxError("a name of 1 to 200 characters", shown(name))
    corners = [finite_number(item.findtext(f"bndbox/{corner}"), LARGEST_SIDE) for corner in _CORNERS]
    if any(corner is None for corner in corners):
        texts = {corner: item.findtext(f"bndbox/{corner}") for corner in _CORNERS}
        raise _NoBoxError("bndbox with xmin, ymin, xmax and ymax in pixels", shown(texts))
    y0, x0, y1, x1 = (float(corner or 0) for corner in corners)
    return name, (y0, x0, y1, x1), bool(flag(item.findtext("difficult") or "0"))
