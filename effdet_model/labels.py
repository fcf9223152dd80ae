"""Names of category ids: COCO, VOC and Waymo as google/automl's `label_map` option knows them (tf2/label_util.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effdet_model.errors import InputError, unknown_name

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


def resolve_label_map(label_map: str | Mapping[Any, str] | None, num_classes: int = 90) -> dict[int, str]:
    """Category id to name, for automl's label_map: a name of LABEL_MAPS, a .yaml file of `id: name`, or a mapping.

    None is COCO for a model of 90 classes and empty for any other. Raises InputError for anything else.
    """
    if label_map is None:
        return dict(COCO) if num_classes == 90 else {}
    named: Any = label_map
    if isinstance(label_map, str):
        if label_map.endswith((".yaml", ".yml")):
            named = _from_yaml(Path(label_map))
        elif label_map in LABEL_MAPS:
            named = LABEL_MAPS[label_map]
        else:
            raise unknown_name("label map", label_map, LABEL_MAPS)
    try:
        return {int(number): str(name) for number, name in named.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"label map: expected category ids with their names, found {named!r:.200}; write one `1: person` a line."
        ) from None


def category_name(names: Mapping[int, str], category_id: int) -> str:
    """The name of a category; "class ID" where the map has none."""
    return names.get(category_id, f"class {category_id}")


def _from_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"label map {path}: expected a YAML file of `id: name`, found: {error}; check the path and the file."
        ) from None
