"""Which category of the data becomes which class of the model: classes are numbered from 1, 0 is the background."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from effdet_model.errors import InputError, shown

_SPARE_IDS = 10
"""Ids are kept as they are while the largest is at most twice the count and this many: COCO has 80 up to 90."""


@dataclass(frozen=True)
class ClassNumbers:
    """Classes of a dataset.

    Attributes:
        label_map: class id from 1 -> name.
        classes: category id of the data -> class id.
        notes: where ids changed or categories were left out.
    """

    label_map: Mapping[int, str]
    classes: Mapping[int, int]
    notes: tuple[str, ...] = ()


def number_classes(categories: Mapping[int, str], used: Collection[int], source: object) -> ClassNumbers:
    """Class ids for a dataset's categories: their own ids where these can be class ids, else 1, 2, ... by id.

    A category 0 or less that no box uses (Roboflow's exports have one) is left out.

    Raises:
        InputError: no categories.
    """
    if not categories:
        raise InputError(f"annotations {source}: expected categories with names, found none; name the classes.")
    unused = {id_ for id_ in categories if id_ < 1 and id_ not in used}
    notes = []
    kept = {id_: name for id_, name in sorted(categories.items()) if id_ not in unused} or dict(categories)
    if unused and len(kept) < len(categories):
        named = ", ".join(f"{id_} ({categories[id_][:40]})" for id_ in sorted(unused)[:3])
        notes.append(f"Categories below 1 that no box uses are left out: {named}.")
    if min(kept) >= 1 and max(kept) <= 2 * len(kept) + _SPARE_IDS:
        return ClassNumbers(kept, {id_: id_ for id_ in kept}, tuple(notes))
    classes = {id_: number for number, id_ in enumerate(kept, 1)}
    first = ", ".join(f"{id_} -> {number}" for id_, number in list(classes.items())[:4])
    notes.append(f"Category ids {min(kept)} to {max(kept)} are renumbered as classes from 1 on ({first}, ...).")
    return ClassNumbers({classes[id_]: name for id_, name in kept.items()}, classes, tuple(notes))


def numbered_like(
    categories: Mapping[int, str], used: Collection[int], like: ClassNumbers, source: object
) -> ClassNumbers:
    """The classes of another dataset (the training set's), found by name.

    Raises:
        InputError: a category that boxes use is not among them.
    """
    by_name = {name.strip().lower(): class_id for class_id, name in like.label_map.items()}
    found = {id_: by_name.get(name.strip().lower()) for id_, name in categories.items()}
    classes = {id_: class_id for id_, class_id in found.items() if class_id is not None}
    strange = [id_ for id_ in sorted(used) if id_ not in classes]
    if strange:
        named = ", ".join(f"{id_} ({categories.get(id_, 'unnamed')[:40]})" for id_ in strange[:5])
        raise InputError(
            f"annotations {source}: expected the classes of the training set ({shown(dict(like.label_map))}), found "
            f"boxes of {named}; give both sets the same names."
        )
    return ClassNumbers(like.label_map, classes)
