"""COCO-format datasets: images with or without annotations, checked before any work is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from effdet_model.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
ANNOTATION_PATTERNS = ("annotations/instances_{split}.json", "annotations/image_info_{split}.json")
"""Where the COCO layout has a split's annotations, or, for test splits, its list of images."""

PUBLISHED_VALIDATION = ("instances_val2017.json", 5000)
"""Annotation file and number of images of the set that validation APs are published on."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a dataset.

    Attributes:
        id: COCO image id. path: the file.
        size: (height, width) as the annotations say; None where they don't.
    """

    id: int
    path: Path
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class CocoDataset:
    """Images in the order of their list, and what is known of them.

    Attributes:
        categories: COCO category id -> name. annotations: as in COCO's instances files, each with `id`, `image_id`,
            `category_id`, `bbox` (x, y, w, h in original pixels), `area`, `iscrowd`; None where there are none
            (test splits, plain folders).
        split: e.g. "val2017"; None for one's own images.
        source: the annotation file; None for a plain folder.
        notes: what was filled in or left out, in sentences.
    """

    images: tuple[ImageRecord, ...]
    categories: Mapping[int, str]
    annotations: tuple[Mapping[str, Any], ...] | None
    split: str | None = None
    source: Path | None = None
    notes: tuple[str, ...] = ()
    bad_images: Mapping[int, str] = field(default_factory=dict)
    """Image id -> why the annotation file's entry for it cannot be used; only where bad images are skipped."""

    @property
    def is_published_validation(self) -> bool:
        """Whether this is COCO val2017, whole."""
        name, count = PUBLISHED_VALIDATION
        return self.source is not None and self.source.name == name and len(self.images) == count

    def first(self, count: int) -> CocoDataset:
        """Its first images and their annotations.

        Raises:
            InputError: the count is below 1.
        """
        if count < 1:
            raise InputError(f"--limit: expected at least 1 image, found {count}.")
        images = self.images[:count]
        ids = {image.id for image in images}
        boxes = self.annotations
        if boxes is not None:
            boxes = tuple(box for box in boxes if box["image_id"] in ids)
        return dataclasses.replace(self, images=images, annotations=boxes)

    @property
    def image_list_sha256(self) -> str:
        """SHA-256 of the image ids and file names, in order."""
        text = "\n".join(f"{image.id} {image.path.name}" for image in self.images)
        return hashlib.sha256(text.encode()).hexdigest()


def load_coco_layout(folder: str | Path, split: str = "val2017", skip_bad: bool = False) -> CocoDataset:
    """A split of a folder as COCO lays it out: `val2017/*.jpg`, `annotations/instances_val2017.json`.

    Test splits have `annotations/image_info_SPLIT.json` (e.g. test-dev2017, whose images lie in test2017/).

    Raises:
        InputError: the folder is laid out differently, or as `load_annotated` says.
    """
    folder = Path(folder)
    candidates = [folder / pattern.format(split=split) for pattern in ANNOTATION_PATTERNS]
    annotations = next((path for path in candidates if path.is_file()), None)
    if annotations is None:
        raise InputError(
            f"--coco {folder}: expected {' or '.join(str(path) for path in candidates)}, found none; name the folder "
            "that has annotations/ and the images' folder, or use --images and --annotations."
        )
    names = dict.fromkeys((split, split.replace("-dev", ""), "images"))
    images = next((folder / name for name in names if (folder / name).is_dir()), None)
    if images is None:
        raise InputError(f"--coco {folder}: expected the images in {folder / split}, found no such folder.")
    return load_annotated(images, annotations, split=split, skip_bad=skip_bad)


def load_annotated(
    images: str | Path, annotations: str | Path, *, split: str | None = None, skip_bad: bool = False
) -> CocoDataset:
    """Images of a folder and their annotations in COCO format.

    Args:
        skip_bad: leave out entries that cannot be used (they are named in `bad_images` and `notes`) instead of
            refusing the file.

    Raises:
        InputError: the folder does not exist, the file is not COCO's format, or an entry cannot be used.
    """
    folder, source = Path(images), Path(annotations)
    if not folder.is_dir():
        raise InputError(f"--images {folder}: expected a folder of images, found none; check the path.")
    content = _read_json(source)
    bad: dict[int, str] = {}
    records = tuple(_image_records(content["images"], folder, source, bad if skip_bad else None))
    if not records and not bad:
        raise InputError(f"annotations {source}: expected at least one image, found an empty list.")
    notes: list[str] = []
    ids = {record.id for record in records} | set(bad)
    boxes = None
    if "annotations" in content:
        boxes = tuple(_annotations(content["annotations"], ids, source, notes, skip_bad))
    return CocoDataset(
        records, _categories(content.get("categories", []), source), boxes, split, source, tuple(notes), bad
    )


def load_folder(images: str | Path) -> CocoDataset:
    """All images of a folder, by name, numbered from 1; without annotations.

    Raises:
        InputError: no such folder, or it has no images.
    """
    folder = Path(images)
    if not folder.is_dir():
        raise InputError(f"--images {folder}: expected a folder of images, found none; check the path.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise InputError(
            f"--images {folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none; check the folder."
        )
    return CocoDataset(tuple(ImageRecord(i, path) for i, path in enumerate(paths, 1)), {}, None)


def check_categories(dataset: CocoDataset, num_classes: int, skip_bad: bool = False) -> CocoDataset:
    """The dataset, if the weights know its categories; a category's id is the class index + 1, as in COCO.

    Raises:
        InputError: a category id is not within 1..num_classes (unless `skip_bad`: then those categories and their
            boxes are left out, with a note).
    """
    used = {box["category_id"] for box in dataset.annotations or ()}
    unknown = {
        id_: dataset.categories.get(id_, "unnamed")
        for id_ in sorted(used | set(dataset.categories))
        if not 1 <= id_ <= num_classes
    }
    if not unknown:
        return dataset
    named = ", ".join(f"{id_} ({name})" for id_, name in list(unknown.items())[:8])
    more = f", and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    if not skip_bad:
        raise InputError(
            f"annotations {dataset.source}: expected category ids from 1 to {num_classes}, which the weights know, "
            f"found {named}{more}; use weights with these classes, or --skip-bad-images to leave those boxes out."
        )
    kept = tuple(box for box in dataset.annotations or () if box["category_id"] not in unknown)
    left_out = len(dataset.annotations or ()) - len(kept)
    note = f"{len(unknown)} categories that the weights don't know left out, with {left_out} boxes: {named}{more}."
    return dataclasses.replace(
        dataset,
        categories={id_: name for id_, name in dataset.categories.items() if id_ not in unknown},
        annotations=None if dataset.annotations is None else kept,
        notes=(*dataset.notes, note),
    )


def _read_json(path: Path) -> dict[str, Any]:
    expected = "an annotation file in COCO's format (a JSON object with images, annotations and categories)"
    if not path.is_file():
        raise InputError(f"annotations {path}: expected {expected}, found no such file; check the path.")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"annotations {path}: expected {expected}, found no JSON ({str(error)[:120]}); check the file."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"annotations {path}: expected {expected}, found a JSON {type(content).__name__}.")
    for key in ("images", "annotations", "categories"):
        optional = key != "images" and "annotations" not in content and path.name.startswith("image_info")
        if key not in content and not optional:
            found = ", ".join(sorted(map(str, content))[:8]) or "nothing"
            raise InputError(
                f"annotations {path}: expected {expected}, found no {key!r} but {found}; convert it to COCO's format."
            )
        if not isinstance(content.get(key, []), list):
            raise InputError(f"annotations {path}: expected {key!r} to be a list; convert it to COCO's format.")
    return content


def _image_records(
    entries: Sequence[Any], folder: Path, source: Path, bad: dict[int, str] | None
) -> Iterator[ImageRecord]:
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")) or not entry.get("file_name"):
            raise InputError(
                f"annotations {source}: expected images with a whole number as id and a file_name, found "
                f"{str(entry)[:120]} as number {number}; convert the file to COCO's format."
            )
        if entry["id"] in seen:
            raise InputError(
                f"annotations {source}: expected every image id once, found {entry['id']} twice "
                f"({entry['file_name']}); remove one of them."
            )
        seen.add(entry["id"])
        height, width = entry.get("height"), entry.get("width")
        if height is None and width is None:
            yield ImageRecord(entry["id"], folder / str(entry["file_name"]))
        elif _is_number(height) and _is_number(width) and int(height) > 0 and int(width) > 0:
            yield ImageRecord(entry["id"], folder / str(entry["file_name"]), (int(height), int(width)))
        else:
            reason = (
                f"image {folder / str(entry['file_name'])} (id {entry['id']}): expected a height and width of at least "
                f"1 pixel, the annotations say {height} x {width}"
            )
            if bad is None:
                raise InputError(f"{reason}; correct {source}, or use --skip-bad-images.")
            bad[entry["id"]] = reason


def _annotations(
    entries: Sequence[Any], image_ids: set[int], source: Path, notes: list[str], skip_bad: bool
) -> Iterator[dict[str, Any]]:
    """Checked copies, with what pycocotools needs filled in."""
    filled = skipped = 0
    for number, entry in enumerate(entries, 1):
        problem = _problem(entry, image_ids)
        if problem and not skip_bad:
            raise InputError(
                f"annotations {source}: expected {problem}, found {str(entry)[:160]} as annotation {number}; correct "
                "it, or use --skip-bad-images to leave it out."
            )
        if problem:
            skipped += 1
            continue
        complete = dict(entry)
        complete.setdefault("id", number)
        if "area" not in entry or "iscrowd" not in entry:
            filled += 1
            complete.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
            complete.setdefault("iscrowd", 0)
        yield complete
    if filled:
        notes.append(f"{filled} annotations without area or iscrowd: area is width x height, iscrowd 0.")
    if skipped:
        notes.append(f"{skipped} annotations that cannot be used left out.")


def _problem(entry: Any, image_ids: set[int]) -> str | None:
    if not isinstance(entry, dict):
        return "annotations to be objects"
    if not _is_id(entry.get("category_id")):
        return "a whole number as category_id"
    if entry.get("image_id") not in image_ids:
        return "an image_id that is in the list of images"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return "a bbox [x, y, width, height]"
    if box[2] < 0 or box[3] < 0:
        return "a bbox with width and height of at least 0"
    return None


def _categories(entries: Sequence[Any], source: Path) -> dict[int, str]:
    categories: dict[int, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            raise InputError(
                f"annotations {source}: expected categories with a whole number as id, found {str(entry)[:120]}."
            )
        categories[entry["id"]] = str(entry.get("name", entry["id"]))
    return categories


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


