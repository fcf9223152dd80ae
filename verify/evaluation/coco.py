"""COCO-format datasets: images with or without annotations, checked before any work is done."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError
from verify.evaluation.annotations.checks import checked_annotations, checked_categories, listed_only
from verify.evaluation.annotations.file import read_annotation_file
from verify.evaluation.annotations.values import LARGEST_ID, clean_text, finite_number, shown, whole_number

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
ANNOTATION_PATTERNS = ("annotations/instances_{split}.json", "annotations/image_info_{split}.json")
"""Where the COCO layout has a split's annotations, or, for test splits, its list of images."""

VALIDATION_FILE = "instances_val2017.json"
VALIDATION_COUNTS = (5000, 36781, 80)
"""Images, annotations (crowds included) and categories of COCO val2017, on which validation APs are published."""
VALIDATION_IDS_SHA256 = "1d158ad41c99a053bef0f51e7468b7f183408dec16e5f8162fdfa2203104ba04"
"""Of its image ids (`ids_sha256`); three public lists of its files give the same."""

_LONGEST_SIDE, _LONGEST_NAME = 2**31, 4096


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
    folder: Path | None = None
    """Where the images lie."""

    @property
    def claims_validation(self) -> bool:
        """Whether names say that this is COCO val2017; `is_published_validation` says whether it is."""
        return self.split == "val2017" or (self.source is not None and self.source.name == VALIDATION_FILE)

    @property
    def is_published_validation(self) -> bool:
        """Whether this is COCO val2017, whole: its 5000 images by id and name, and as many annotations."""
        names = all(image.path.name == f"{image.id:012d}.jpg" for image in self.images)
        boxes, categories = len(self.annotations or ()), len(self.categories)
        if not names or (len(self.images), boxes, categories) != VALIDATION_COUNTS:
            return False
        return ids_sha256(image.id for image in self.images) == VALIDATION_IDS_SHA256

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

    def name_of(self, image: ImageRecord) -> str:
        """An image's file name below the folder."""
        inside = self.folder is not None and image.path.is_relative_to(self.folder)
        return str(image.path.relative_to(self.folder)) if inside and self.folder else str(image.path)

    @property
    def image_list_sha256(self) -> str:
        """SHA-256 of the image ids and file names below the folder, in order."""
        text = "\n".join(f"{image.id} {self.name_of(image)}" for image in self.images)
        return hashlib.sha256(text.encode()).hexdigest()


def ids_sha256(ids: Iterable[int]) -> str:
    """SHA-256 of ids in ascending order, one a line."""
    return hashlib.sha256("\n".join(map(str, sorted(ids))).encode()).hexdigest()


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
    content = read_annotation_file(source)
    bad: dict[int, str] = {}
    notes: list[str] = []
    records = tuple(_image_records(content["images"], folder, source, notes, bad if skip_bad else None))
    if not records and not bad:
        raise InputError(f"annotations {source}: expected at least one image, found an empty list; check the file.")
    categories = checked_categories(content.get("categories", []), source, notes)
    boxes = None
    if "annotations" in content:
        ids = {record.id for record in records}
        every = checked_annotations(content["annotations"], ids | set(bad), source, notes, skip_bad)
        boxes, categories = listed_only(every, categories, notes)
        if not any(not box["iscrowd"] for box in boxes):
            notes.append("No annotation that counts: there is nothing to measure.")
        notes.extend(_outside(boxes, records))
    dataset = CocoDataset(records, categories, boxes, split, source, tuple(notes), bad, folder)
    return _one_id_per_file(dataset, skip_bad)


def _outside(boxes: Sequence[Mapping[str, Any]], records: Sequence[ImageRecord]) -> Iterator[str]:
    """What corners instead of sizes look like: boxes far beyond their images."""
    sizes = {record.id: record.size for record in records if record.size}
    beyond = 0
    for box in boxes:
        height, width = sizes.get(box["image_id"]) or (math.inf, math.inf)
        x, y, w, h = box["bbox"]
        beyond += x + w > width + 2 or y + h > height + 2 or x < -2 or y < -2
    if beyond:
        yield (
            f"{beyond} of {len(boxes)} boxes reach more than 2 pixels beyond their image; COCO's boxes are "
            "[x, y, width, height], not corners."
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
    records = tuple(ImageRecord(i, path) for i, path in enumerate(paths, 1))
    return CocoDataset(records, {}, None, folder=folder)


def check_categories(
    dataset: CocoDataset, num_classes: int, skip_bad: bool = False, names: Mapping[int, str] | None = None
) -> CocoDataset:
    """The dataset, if the weights know its categories; a category's id is the class index + 1, as in COCO.

    Args:
        names: of the weights' classes, by id, where they are known; a category that has the name of another class
            is told in a note.

    Raises:
        InputError: a category id is not within 1..num_classes (unless `skip_bad`: then those categories and their
            boxes are left out, with a note).
    """
    used = {box["category_id"] for box in dataset.annotations or ()}
    dataset = _without_unused(dataset, used, num_classes)
    dataset = dataclasses.replace(dataset, notes=(*dataset.notes, *_other_meaning(dataset.categories, names or {})))
    unknown = {
        id_: dataset.categories.get(id_, "unnamed") for id_ in sorted(used) if not 1 <= id_ <= num_classes
    }
    if not unknown:
        return dataset
    named = ", ".join(f"{id_} ({name[:40]})" for id_, name in list(unknown.items())[:6])
    more = f", and {len(unknown) - 6} more" if len(unknown) > 6 else ""
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


def _other_meaning(categories: Mapping[int, str], names: Mapping[int, str]) -> Iterator[str]:
    """What ids without gaps look like (1 to 80) to weights of COCO's 90: AP is low, and nothing else shows it."""

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())

    known = {plain(name): id_ for id_, name in names.items()}
    moved = [
        (id_, known[plain(name)])
        for id_, name in sorted(categories.items())
        if plain(name) in known and plain(names.get(id_, "")) != plain(name)
    ]
    if moved:
        first = ", ".join(f"{id_} ({categories[id_][:40]}), which is their {theirs}" for id_, theirs in moved[:3])
        yield (
            f"{len(moved)} of {len(categories)} categories have the name of another class of the weights, such as "
            f"{first}; if the ids mean the same, name the weights' classes with --hparams label_map, else give the "
            "annotations the weights' ids."
        )


def _without_unused(dataset: CocoDataset, used: Collection[int], num_classes: int) -> CocoDataset:
    """Without categories that the weights don't know and no annotation uses, such as id 0 of Roboflow's files."""
    unused = {
        id_: name
        for id_, name in sorted(dataset.categories.items())
        if id_ not in used and not 1 <= id_ <= num_classes
    }
    if not unused:
        return dataset
    named = ", ".join(f"{id_} ({name[:40]})" for id_, name in list(unused.items())[:4])
    more = f", and {len(unused) - 4} more" if len(unused) > 4 else ""
    note = f"{len(unused)} categories that the weights don't know and no annotation uses left out: {named}{more}."
    categories = {id_: name for id_, name in dataset.categories.items() if id_ not in unused}
    return dataclasses.replace(dataset, categories=categories, notes=(*dataset.notes, note))


def _image_records(
    entries: Sequence[Any], folder: Path, source: Path, notes: list[str], bad: dict[int, str] | None
) -> Iterator[ImageRecord]:
    seen: set[int] = set()
    read = 0
    for number, entry in enumerate(entries, 1):
        id_ = whole_number(entry.get("id")) if isinstance(entry, dict) else None
        if id_ is None or not _is_file_name(entry.get("file_name")):
            raise InputError(
                f"annotations {source}: expected images with a whole number as id and a file_name, found "
                f"{_found_image(entry)} as image {number}; {_image_remedy(entry, id_)}."
            )
        read += type(entry["id"]) is not int
        if id_ in seen:
            raise InputError(
                f"annotations {source}: expected every image id once, found {id_} twice "
                f"({shown(entry['file_name'])}); remove one of them."
            )
        seen.add(id_)
        path = folder / entry["file_name"]
        height, width = entry.get("height"), entry.get("width")
        sides = [int(finite_number(side, _LONGEST_SIDE) or 0) for side in (height, width)]
        if height is None and width is None:
            yield ImageRecord(id_, path)
        elif min(sides) >= 1:
            yield ImageRecord(id_, path, (sides[0], sides[1]))
        else:
            reason = (
                f"image {path} (id {id_}): expected a height and width of at least 1 pixel, the annotations say "
                f"{shown(height)} x {shown(width)}"
            )
            if bad is None:
                raise InputError(f"{reason}; correct {source}, or use --skip-bad-images.")
            bad[id_] = reason
    if read:
        notes.append(f"{read} image ids that are text or fractions: read as the whole numbers that they mean.")


def _image_remedy(entry: Any, id_: int | None) -> str:
    if id_ is not None or not isinstance(entry, dict) or not isinstance(entry.get("id"), (str, int)):
        return "convert the file to COCO's format"
    return (
        f"COCO's results format and google/automl know no others (up to {LARGEST_ID}): number the images, and the "
        "image_id of their annotations alike"
    )


def _is_file_name(value: Any) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        return False
    return "\0" not in value and clean_text(value) == value


def _found_image(entry: Any) -> str:
    if not isinstance(entry, dict):
        return shown(entry)
    return f"id {shown(entry.get('id'))} and file_name {shown(entry.get('file_name'))}"


def _one_id_per_file(dataset: CocoDataset, skip_bad: bool) -> CocoDataset:
    """The dataset, if no file has two ids whose boxes differ: then neither has all boxes of the picture.

    Where they are the same, every id counts, as in pycocotools.
    """
    ids: dict[Path, list[int]] = {}
    for image in dataset.images:
        ids.setdefault(image.path, []).append(image.id)
    several = {path: group for path, group in ids.items() if len(group) > 1}
    if not several:
        return dataset
    boxes: dict[int, list[tuple[Any, ...]]] = {}
    for box in dataset.annotations or ():
        boxes.setdefault(box["image_id"], []).append((box["category_id"], *box["bbox"], box["iscrowd"]))
    for path, group in several.items():
        if any(sorted(boxes.get(id_, ())) != sorted(boxes.get(group[0], ())) for id_ in group) and not skip_bad:
            raise InputError(
                f"annotations {dataset.source}: expected one id per image file, found {path.name} as "
                f"{', '.join(map(str, group[:5]))} with different boxes, so that none has all of them; give the file "
                "one id, or use --skip-bad-images to keep the first."
            )
    more = sum(len(group) - 1 for group in several.values())
    if not skip_bad:
        note = f"{len(several)} files are listed under several ids ({more} more than files); every id counts."
        return dataclasses.replace(dataset, notes=(*dataset.notes, note))
    kept = {group[0] for group in ids.values()}
    note = f"{more} images left out whose file is listed under another id."
    return dataclasses.replace(
        dataset,
        images=tuple(image for image in dataset.images if image.id in kept),
        annotations=None
        if dataset.annotations is None
        else tuple(box for box in dataset.annotations if box["image_id"] in kept),
        notes=(*dataset.notes, note),
    )
