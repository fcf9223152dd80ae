"""Names of category ids."""

from __future__ import annotations

import pytest

from effdet_model import InputError
from effdet_model.labels import COCO, VOC, WAYMO, category_name, resolve_label_map


def test_coco_has_80_names_with_the_known_gaps():
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert len(COCO) == 80 and set(range(1, 91)) - set(COCO) == gaps
    assert {1: "person", 44: "bottle", 77: "cell phone", 90: "toothbrush"}.items() <= COCO.items()


def test_coco_names_are_pycocotools_names_in_the_shapes_set(shared):
    import json

    categories = json.loads((shared / "shapes" / "instances.json").read_text())["categories"]
    assert {category["id"] for category in categories} <= set(COCO)


def test_other_maps_and_files(tmp_path):
    assert len(VOC) == 20 and VOC[20] == "tvmonitor"
    assert resolve_label_map("waymo") == WAYMO == {1: "vehicle", 2: "pedestrian", 3: "cyclist"}
    assert resolve_label_map({"1": "cup"}) == {1: "cup"}
    path = tmp_path / "names.yaml"
    path.write_text("1: cup\n2: cat\n")
    assert resolve_label_map(str(path)) == {1: "cup", 2: "cat"}


def test_without_a_map_only_90_classes_are_coco():
    assert resolve_label_map(None, 90) == COCO
    assert resolve_label_map(None, 20) == {}
    assert category_name({}, 3) == "class 3" and category_name(COCO, 3) == "car"


def test_wrong_maps_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown label map: 'cocoo'. Did you mean coco"):
        resolve_label_map("cocoo")
    with pytest.raises(InputError, match=r"label map .*gone\.yaml: expected a YAML file of `id: name`"):
        resolve_label_map(str(tmp_path / "gone.yaml"))
    path = tmp_path / "list.yaml"
    path.write_text("- cup\n")
    with pytest.raises(InputError, match=r"label map: expected category ids with their names, found \['cup'\]"):
        resolve_label_map(str(path))
