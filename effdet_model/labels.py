"""Names of category ids: COCO, VOC and Waymo as google/automl's `label_map` option knows them (tf2/label_util.py)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError, shown, unknown_name
from effdet_model.plain_data import read_yaml

# In order of id from 1 on; "-" is an id that COCO left out of its 80 object categories.
_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -,
backpack, umbrella, -, -, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball
bat, baseball glove, skateboard, surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
couch, potted plant, bed, -, dining table, -, -, toilet, -, tv, laptop, mouse, remote, keyboard, cell
phone, microwave, oven, toaster, sink, refrigerator, -, book, clock, vase, scissors, teddy bear, hair
drier, toothbrush
"""
_VOC = """
aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor
"""
_WAYMO = "vehicle, pedestrian, cyclist"


def _numbered(names: str) -> dict[int, str]:
    listed = (name.strip() for name in names.replace("\n", " ").split(","))
    return {number: name for number, name in enumerate(listed, start=1) if name != "-"}


COCO = _numbered(_COCO)
"""COCO category id (1..90 with gaps) to name, 80 entries; class index c of a model is id c + 1."""
VOC = _numbered(_VOC)
WAYMO = _numbered(_WAYMO)
LABEL_MAPS: Mapping[str, Mapping[int, str]] = {"coco": COCO, "voc": VOC, "waymo": WAYMO}
MAX_LABELS = 100_000
MAX_LABEL_CHARACTERS = 200
MAX_CATEGORY_ID = 2**31 - 1


class LabelMap:
    """What a config's `label_map` may be: a name of LABEL_MAPS, or category ids with their names."""

    expected = f"{', '.join(LABEL_MAPS)}, or category ids with their names"

    def read(self, value: Any, where: str) -> str | dict[int, str]:
        """See `effdet_model.field_types.FieldType`; a path is refused: only `resolve_label_map` reads files."""
        if isinstance(value, str):
            if value not in LABEL_MAPS:
                raise _no_such_map(value, where)
            return value
        return _checked(value, where)


def read_label_file(label_map: Any, folder: Path | None = None) -> Any:
    """The content of a label map that is named by the path of a .yaml file; anything else as it is.

    Args:
        folder: where the file is looked for as well, if it is not at the path itself.

    Raises:
        InputError: the file cannot be read, or holds no ids with names.
    """
    if not isinstance(label_map, str) or not label_map.endswith((".yaml", ".yml")):
        return label_map
    path = Path(label_map)
    if folder is not None and not path.exists() and (folder / path).exists():
        path = folder / path
    named = read_yaml(path, "label map", text_of="", expected="a YAML file of `id: name`")
    return _checked(named, "label map", f" in {path}")


def resolve_label_map(label_map: str | Mapping[Any, str] | None, num_classes: int = 90) -> dict[int, str]:
    """Category id to name, for automl's label_map: a name of LABEL_MAPS, a .yaml file of `id: name`, or a mapping.

    None is COCO for a model of 90 classes and empty for any other. Raises InputError for anything else.
    """
    if label_map is None:
        return dict(COCO) if num_classes == 90 else {}
    named: Any = read_label_file(label_map)
    if not isinstance(named, str):
        return _checked(named, "label map")
    if named not in LABEL_MAPS:
        raise _no_such_map(named, "label map")
    return dict(LABEL_MAPS[named])


def category_name(names: Mapping[int, str], category_id: int) -> str:
    """The name of a category; "class ID" where the map has none."""
    return names.get(category_id, f"class {category_id}")


def _no_such_map(name: str, where: str) -> InputError:
    if name.endswith((".yaml", ".yml")):
        return InputError(
            f"{where}: expected {LabelMap.expected}, found the path {shown(name)}, which is not read from here; "
            "convert again, or give the names themselves."
        )
    return unknown_name(where, name, LABEL_MAPS)


def _checked(named: Any, where: str, place: str = "") -> dict[int, str]:
    """Ids with names as text; an id without a name (null) is left out."""
    if not isinstance(named, Mapping) or len(named) > MAX_LABELS:
        raise InputError(
            f"{where}: expected category ids with their names, found {shown(named)}{place}; write one `1: person` "
            "a line."
        )
    labels = {}
    for key, name in named.items():
        category = _category_id(key, where)
        if name is not None:
            labels[category] = _label(name, f"{where}[{category}]")
    return labels


def _category_id(key: Any, where: str) -> int:
    is_text = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10
    whole = isinstance(key, int) and not isinstance(key, bool)
    if not (is_text or whole) or not 0 <= int(key) <= MAX_CATEGORY_ID:
        raise InputError(
            f"{where}: expected category ids with their names, found {shown(key)} as an id; write whole numbers from 0."
        )
    return int(key)


def _label(name: Any, where: str) -> str:
    text = str(name) if isinstance(name, float) or (isinstance(name, int) and abs(name) < 10**18) else name
    is_text = isinstance(text, str) and not isinstance(name, bool) and 0 < len(text) <= MAX_LABEL_CHARACTERS
    if not is_text or any(unicodedata.category(character) == "Cc" for character in text):
        raise InputError(
            f"{where}: expected a name as text of 1 to {MAX_LABEL_CHARACTERS} characters, found {shown(name)}; write "
            'it in quotes: "name".'
        )
    return str(text)
