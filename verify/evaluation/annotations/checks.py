"""Everything of an annotation file that the metric relies on, checked before the first image is read.

pycocotools checks nothing: equal ids hide boxes, id 0 counts as no match, text and null end in a traceback after the
whole run. What a value can only mean is repaired, with a note; anything else is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError
from verify.evaluation.annotations.values import (
    LARGEST_ID,
    LARGEST_SIDE,
    clean_text,
    finite_number,
    flag,
    shown,
    whole_number,
)

Box = dict[str, Any]
"""One annotation: id, image_id, category_id, bbox [x, y, width, height] in original pixels, area, iscrowd."""

_FILLED = "annotations without area or iscrowd: area is width x height, iscrowd 0."
_READ = "annotations with numbers as text, fractions or true/false: read as the numbers that they mean."
_AREA = "annotations whose area cannot be used (no number, negative or too large): area is width x height."
_SKIPPED = "annotations that cannot be used left out."
_EQUAL = "annotations are equal to an earlier one (image, category, box); they count, as in pycocotools."
_ORDER = (_FILLED, _READ, _AREA, _SKIPPED, _EQUAL)


class _UnusableError(Exception):
    """An annotation that cannot be used: what was expected, and the value that was found."""


def checked_categories(entries: Sequence[Any], source: Path, notes: list[str]) -> dict[int, str]:
    """Category id -> name.

    Raises:
        InputError: an entry has no whole number as id, or an id has two names.
    """
    categories: dict[int, str] = {}
    read = 0
    for number, entry in enumerate(entries, 1):
        raw = entry.get("id") if isinstance(entry, dict) else None
        id_ = whole_number(raw)
        if id_ is None:
            found = shown(raw if isinstance(entry, dict) else entry)
            raise InputError(
                f"annotations {source}: expected categories with a whole number as id, found {found} in category "
                f"{number}; correct it."
            )
        read += type(raw) is not int
        name = clean_text(entry["name"] if entry.get("name") is not None else id_)
        if categories.setdefault(id_, name) != name:
            raise InputError(
                f"annotations {source}: expected every category id once, found {id_} as {shown(categories[id_])} and "
                f"as {shown(name)}; remove one of them, or number them anew where both are used."
            )
    if read:
        notes.append(f"{read} category ids that are text or fractions: read as the whole numbers that they mean.")
    return categories


def checked_annotations(
    entries: Sequence[Any], image_ids: Collection[int], source: Path, notes: list[str], skip_bad: bool
) -> tuple[Box, ...]:
    """Copies that have what the metric needs, repaired where only one value can be meant.

    Args:
        notes: gets a sentence for every kind of repair. skip_bad: leave out what cannot be used.

    Raises:
        InputError: an annotation cannot be used.
    """
    counts: Counter[str] = Counter()
    boxes: list[Box] = []
    for number, entry in enumerate(entries, 1):
        try:
            boxes.append(_checked(entry, image_ids, counts))
        except _UnusableError as error:
            if not skip_bad:
                expected, found = error.args
                raise InputError(
                    f"annotations {source}: expected {expected}, found {found} in annotation {number}{_place(entry)}; "
                    "correct it, or use --skip-bad-images to leave it out."
                ) from None
            counts[_SKIPPED] += 1
    _refuse_fractions(boxes, source)
    places = Counter((box["image_id"], box["category_id"], *box["bbox"]) for box in boxes)
    counts[_EQUAL] = len(boxes) - len(places)
    notes.extend(f"{counts[kind]} {kind}" for kind in _ORDER if counts[kind])
    notes.extend(_renumbered(boxes))
    notes.extend(_areas_of_zero(boxes))
    return tuple(boxes)


def listed_only(
    boxes: tuple[Box, ...], categories: Mapping[int, str], notes: list[str]
) -> tuple[tuple[Box, ...], dict[int, str]]:
    """The boxes that count, and the categories: pycocotools measures the listed categories and no others.

    A file that lists none leaves only those that its annotations use.
    """
    used = sorted({box["category_id"] for box in boxes})
    if not categories and used:
        notes.append(f"The file lists no categories: the {len(used)} that its annotations use are taken.")
        return boxes, {id_: str(id_) for id_ in used}
    strange = [id_ for id_ in used if id_ not in categories]
    if not strange:
        return boxes, dict(categories)
    kept = tuple(box for box in boxes if box["category_id"] in categories)
    ids = ", ".join(map(str, strange[:8])) + (f" and {len(strange) - 8} more" if len(strange) > 8 else "")
    notes.append(
        f"{len(boxes) - len(kept)} annotations of categories that the file does not list ({ids}) do not count, as in "
        "pycocotools; list these categories to measure them."
    )
    return kept, dict(categories)


def _checked(entry: Any, image_ids: Collection[int], counts: Counter[str]) -> Box:
    if not isinstance(entry, dict):
        raise _UnusableError("annotations to be objects", shown(entry))
    image_id, category_id = whole_number(entry.get("image_id")), whole_number(entry.get("category_id"))
    if category_id is None:
        raise _UnusableError("a whole number as category_id", _found(entry, "category_id"))
    if image_id is None or image_id not in image_ids:
        raise _UnusableError("an image_id that is in the list of images", _found(entry, "image_id"))
    bbox = _bbox(entry)
    iscrowd = 0 if entry.get("iscrowd") is None else flag(entry["iscrowd"])
    if iscrowd is None:
        raise _UnusableError("iscrowd to be 0 or 1", _found(entry, "iscrowd"))
    area = finite_number(entry.get("area"), LARGEST_SIDE**2)
    if entry.get("area") is not None and (area is None or area < 0):
        area = None
        counts[_AREA] += 1
    counts[_FILLED] += entry.get("area") is None or entry.get("iscrowd") is None
    area = bbox[2] * bbox[3] if area is None else area
    same = (entry["image_id"], entry["category_id"], entry["bbox"]) == (image_id, category_id, bbox)
    ints = type(entry["image_id"]) is int and type(entry["category_id"]) is int
    flagged = entry.get("iscrowd") is None or type(entry["iscrowd"]) is int
    counts[_READ] += not (same and ints and flagged and not isinstance(entry.get("area"), str))
    return {
        "id": entry.get("id"), "image_id": image_id, "category_id": category_id, "bbox": bbox, "area": area,
        "iscrowd": iscrowd,
    }  # fmt: skip


def _bbox(entry: Mapping[str, Any]) -> list[float | int]:
    raw = entry.get("bbox")
    if not isinstance(raw, list) or len(raw) != 4:
        raise _UnusableError("a bbox [x, y, width, height]", _found(entry, "bbox"))
    box = [number for value in raw if (number := finite_number(value, LARGEST_SIDE)) is not None]
    if len(box) != 4:
        expected = f"a bbox [x, y, width, height] of numbers up to {LARGEST_SIDE:.0f}"
        raise _UnusableError(expected, _found(entry, "bbox"))
    if box[2] < 0 or box[3] < 0:
        raise _UnusableError("a bbox with width and height of at least 0", _found(entry, "bbox"))
    return box


def _found(entry: Mapping[str, Any], key: str) -> str:
    return f"{key} {shown(entry[key])}" if key in entry else f"no {key}"


def _place(entry: Any) -> str:
    """Where else to look for an annotation: its own id."""
    return f" (id {shown(entry['id'])})" if isinstance(entry, dict) and entry.get("id") is not None else ""


def _refuse_fractions(boxes: Sequence[Box], source: Path) -> None:
    """Boxes as fractions of the image would give an AP of 0 without a word."""
    if not boxes or any(max(x + width, y + height) > 1 for x, y, width, height in (box["bbox"] for box in boxes)):
        return
    fraction = next((box for box in boxes if any(value % 1 for value in box["bbox"])), None)
    if fraction is not None:
        raise InputError(
            f"annotations {source}: expected boxes [x, y, width, height] in pixels, found none that reaches beyond "
            f"one pixel (the first: {shown(fraction['bbox'])}); multiply fractions by the image's width and height."
        )


def _renumbered(boxes: Sequence[Box]) -> list[str]:
    """Unique ids from 1 on, in place; they appear in no output, so any will do."""
    ids = [box["id"] if type(box["id"]) is int and 1 <= box["id"] <= LARGEST_ID else None for box in boxes]
    missing = ids.count(None)
    twice = len(boxes) - missing - len({id_ for id_ in ids if id_ is not None})
    if not missing and not twice:
        return []
    for number, box in enumerate(boxes, 1):
        box["id"] = number
    return [
        f"Annotations numbered anew: {missing} had no whole number from 1 on as id, {twice} the id of an earlier one."
    ]


def _areas_of_zero(boxes: Sequence[Box]) -> list[str]:
    """Where no annotation has an area but boxes have, the writer left it out."""
    if any(box["area"] for box in boxes) or not any(box["bbox"][2] * box["bbox"][3] for box in boxes):
        return []
    for box in boxes:
        box["area"] = box["bbox"][2] * box["bbox"][3]
    return [f"All {len(boxes)} annotations have area 0: area is width x height."]
