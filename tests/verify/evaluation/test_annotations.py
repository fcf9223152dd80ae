"""Annotation files as people have them: repaired to the very numbers of a clean file, or refused with the place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.drawn_images import draw_dataset
from effdet_model.errors import InputError
from verify.evaluation.annotations.values import finite_number, flag, whole_number
from verify.evaluation.coco import CocoDataset, check_categories, load_annotated, load_coco_layout
from verify.evaluation.metrics import CocoMetrics, coco_metrics

Content = dict[str, Any]
CLEAN_AP = 0.3334


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), 12).parent


@pytest.fixture(scope="module")
def clean(drawn: Path) -> Content:
    content: Content = json.loads((drawn / "instances.json").read_text(encoding="utf-8"))
    content["annotations"][3]["iscrowd"] = 1
    return content


@pytest.fixture(scope="module")
def found(clean: Content) -> list[dict[str, Any]]:
    """Detections of a mediocre model: moved, missing, of a wrong class, and false ones."""
    random = np.random.default_rng(3)
    results = []
    for box in clean["annotations"]:
        x, y, width, height = box["bbox"]
        for score in random.uniform(0.05, 1, int(random.integers(0, 4))):
            moved = random.normal(0, 0.08, 2) * (width, height)
            category = box["category_id"] if random.random() < 0.8 else int(random.integers(1, 4))
            place = [float(x + moved[0]), float(y + moved[1]), width, height]
            results.append(
                {"image_id": box["image_id"], "category_id": category, "bbox": place, "score": float(score)}
            )
    return results


@pytest.fixture
def load(drawn: Path, tmp_path: Path) -> Callable[..., CocoDataset]:
    def loaded(content: Any, **how: Any) -> CocoDataset:
        path = tmp_path / "annotations.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return load_annotated(drawn / "images", path, **how)

    return loaded


def measured(dataset: CocoDataset, found: list[dict[str, Any]]) -> CocoMetrics:
    return coco_metrics(check_categories(dataset, 3), found)


def every(key: str, value: Callable[[Any], Any]) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for box in content["annotations"]:
            box[key] = value(box.get(key))

    return change


def first(key: str, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["annotations"][0][key] = value

    return change


def without(*keys: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for box in content["annotations"]:
            for key in keys:
                del box[key]

    return change


def restarted_ids(content: Content) -> None:
    counts: dict[int, int] = {}
    for box in content["annotations"]:
        counts[box["image_id"]] = box["id"] = counts.get(box["image_id"], 0) + 1


def ids_from_zero(content: Content) -> None:
    for box in content["annotations"]:
        box["id"] -= 1


def text_image_ids(content: Content) -> None:
    for image in content["images"]:
        image["id"] = f"{image['id']:012d}"


def text_category_ids(content: Content) -> None:
    for category in content["categories"]:
        category["id"] = str(category["id"])


def an_unlisted_category(content: Content) -> None:
    content["annotations"].append({**content["annotations"][0], "id": 999, "category_id": 77})


def no_categories(content: Content) -> None:
    content["categories"] = []


def an_unused_category(content: Content) -> None:
    content["categories"] += [{"id": 0, "name": "shapes"}, {"id": 90, "name": "toothbrush"}]


def text_boxes(content: Content) -> None:
    for box in content["annotations"]:
        box["bbox"] = [str(side) for side in box["bbox"]]


def segmentations(content: Content) -> None:
    for number, box in enumerate(content["annotations"]):
        box["segmentation"] = {"counts": "bad", "size": [1, 1]} if number % 2 else [[1, 2]]


REPAIRED = {
    "ids that restart per image": (restarted_ids, "numbered anew: 0 had no whole number from 1 on as id, "),
    "equal ids": (every("id", lambda id_: 7), "the id of an earlier one"),
    "null ids": (every("id", lambda id_: None), "had no whole number from 1 on as id, 0 the id"),
    "no ids": (without("id"), "had no whole number from 1 on as id"),
    "ids from 0": (ids_from_zero, "numbered anew: 1 had no whole number from 1 on"),
    "negative ids": (every("id", lambda id_: -id_), "numbered anew"),
    "text ids": (every("id", lambda id_: f"box-{id_}"), "numbered anew"),
    "ids of true": (every("id", lambda id_: True), "numbered anew"),
    "huge ids": (every("id", lambda id_: id_ + 10**30), "numbered anew"),
    "unhashable ids": (every("id", lambda id_: [id_]), "numbered anew"),
    "iscrowd as text": (every("iscrowd", str), "with numbers as text"),
    "iscrowd as true and false": (every("iscrowd", bool), "true/false"),
    "iscrowd as text of true and false": (every("iscrowd", lambda v: str(bool(v)).lower()), "read as the numbers"),
    "iscrowd as a fraction": (every("iscrowd", float), "read as the numbers"),
    "area null": (every("area", lambda area: None), "without area or iscrowd"),
    "area missing": (without("area"), "without area or iscrowd"),
    "area as text": (every("area", str), "numbers as text"),
    "area as words": (every("area", lambda area: "large"), "whose area cannot be used"),
    "area -1": (every("area", lambda area: -1), "whose area cannot be used"),
    "area NaN": (every("area", lambda area: float("nan")), "whose area cannot be used"),
    "area infinite": (every("area", lambda area: float("inf")), "whose area cannot be used"),
    "area of a list": (every("area", lambda area: [area]), "whose area cannot be used"),
    "area 0 everywhere": (every("area", lambda area: 0), "have area 0: area is width x height"),
    "image_id as text": (every("image_id", str), "numbers as text"),
    "image ids as text": (text_image_ids, "image ids that are text"),
    "image_id as a fraction": (every("image_id", float), "fractions"),
    "category_id as text": (every("category_id", str), "numbers as text"),
    "category ids as text": (text_category_ids, "category ids that are text"),
    "bbox as text": (text_boxes, "numbers as text"),
    "a category that is not listed": (an_unlisted_category, "(77) do not count, as in pycocotools"),
    "no categories": (no_categories, "lists no categories: the 3 that its annotations use are taken"),
    "categories that nothing uses": (an_unused_category, "no annotation uses left out: 0 (shapes), 90 (toothbrush)"),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_a_repaired_file_gives_the_numbers_of_the_clean_one(
    kind: str, clean: Content, found: list[dict[str, Any]], load: Callable[..., CocoDataset]
) -> None:
    change, note = REPAIRED[kind]
    expected = measured(load(clean), found)
    assert expected.ap == pytest.approx(CLEAN_AP, abs=1e-4)
    broken = copy.deepcopy(clean)
    change(broken)
    dataset = check_categories(load(broken), 3)
    repaired = measured(dataset, found)
    assert repaired.values == expected.values
    assert list(repaired.per_class.values()) == list(expected.per_class.values())
    assert any(note in sentence for sentence in dataset.notes), dataset.notes


def test_a_clean_file_needs_no_note(clean: Content, load: Callable[..., CocoDataset]) -> None:
    assert load(clean).notes == ()
    with_masks = copy.deepcopy(clean)
    segmentations(with_masks)
    assert load(with_masks).notes == () and load(with_masks).annotations == load(clean).annotations


def test_missing_iscrowd_is_0(clean: Content, load: Callable[..., CocoDataset]) -> None:
    for change in (without("iscrowd"), every("iscrowd", lambda value: None)):
        broken = copy.deepcopy(clean)
        change(broken)
        assert {box["iscrowd"] for box in load(broken).annotations or ()} == {0}


REFUSED = {
    "image_id of a list": (first("image_id", [1]), "image_id [1] in annotation 1"),
    "image_id null": (first("image_id", None), "found image_id None in annotation 1"),
    "image_id of true": (first("image_id", True), "found image_id True"),
    "image_id of no image": (first("image_id", 4711), "found image_id 4711"),
    "category_id null": (first("category_id", None), "a whole number as category_id, found category_id None"),
    "category_id as a word": (first("category_id", "disc"), "found category_id 'disc'"),
    "category_id of a fraction": (first("category_id", 1.5), "found category_id 1.5"),
    "category_id of a dict": (first("category_id", {}), "found category_id {}"),
    "no bbox": (without("bbox"), "a bbox .x, y, width, height., found no bbox in annotation 1"),
    "bbox null": (first("bbox", None), "found bbox None"),
    "bbox of three": (first("bbox", [1, 2, 3]), "found bbox .1, 2, 3."),
    "bbox of words": (first("bbox", ["a", 2, 3, 4]), "of numbers up to 100000, found bbox .'a'"),
    "bbox of true": (first("bbox", [True, 2, 3, 4]), "of numbers"),
    "bbox NaN": (first("bbox", [float("nan"), 2, 3, 4]), "of numbers up to 100000, found bbox .nan"),
    "bbox infinite": (first("bbox", [0, 0, float("inf"), 4]), "of numbers up to 100000"),
    "bbox huge": (first("bbox", [0, 0, 1e300, 1e300]), "of numbers up to 100000"),
    "bbox of a whole number of 400 digits": (first("bbox", [0, 0, 10**400, 4]), "of numbers up to 100000"),
    "bbox negative": (first("bbox", [5, 5, -3, 4]), "width and height of at least 0"),
    "iscrowd 2": (first("iscrowd", 2), "iscrowd to be 0 or 1, found iscrowd 2"),
    "iscrowd of a word": (first("iscrowd", "maybe"), "found iscrowd 'maybe'"),
    "iscrowd of a list": (first("iscrowd", []), "iscrowd to be 0 or 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_one_can_know_is_refused_with_its_place(
    kind: str, clean: Content, load: Callable[..., CocoDataset]
) -> None:
    change, message = REFUSED[kind]
    broken = copy.deepcopy(clean)
    change(broken)
    with pytest.raises(InputError, match=message.replace("[1]", r"\[1\]")) as caught:
        load(broken)
    text = str(caught.value)
    assert len(text) < 600 and "annotations.json" in text and "--skip-bad-images" in text and "annotation 1" in text
    if kind != "no bbox":
        left_out = load(broken, skip_bad=True)
        assert len(left_out.annotations or ()) == len(clean["annotations"]) - 1
        assert any(note.startswith("1 annotations that cannot be used") for note in left_out.notes)


def test_annotations_that_are_no_objects(clean: Content, load: Callable[..., CocoDataset]) -> None:
    for entry in (None, [], "box", 3):
        with pytest.raises(InputError, match="annotations to be objects"):
            load({**clean, "annotations": [entry]})


def test_boxes_as_fractions_of_the_image_are_refused(clean: Content, load: Callable[..., CocoDataset]) -> None:
    broken = copy.deepcopy(clean)
    for box in broken["annotations"]:
        box["bbox"] = [0.25, 0.25, 0.5, 0.125]
    with pytest.raises(InputError, match="in pixels, found none that reaches beyond one pixel"):
        load(broken)


def test_boxes_written_as_corners_are_named(clean: Content, load: Callable[..., CocoDataset]) -> None:
    broken = copy.deepcopy(clean)
    for box in broken["annotations"]:
        x, y, width, height = box["bbox"]
        box["bbox"] = [x, y, x + width, y + height]
    assert any("boxes reach more than 2 pixels beyond their image" in note for note in load(broken).notes)


def test_equal_annotations_are_named(clean: Content, load: Callable[..., CocoDataset]) -> None:
    broken = copy.deepcopy(clean)
    broken["annotations"].append({**broken["annotations"][0], "id": 999})
    assert any("1 annotations are equal to an earlier one" in note for note in load(broken).notes)


def test_nothing_to_measure_is_said(clean: Content, load: Callable[..., CocoDataset]) -> None:
    assert any("nothing to measure" in note for note in load({**clean, "annotations": []}).notes)


def test_values_mean_one_number_or_none() -> None:
    assert whole_number(5.0) == 5
    meant = {5: 5, "5": 5, " 5.0 ": 5, "-3": -3, "007": 7}
    assert {value: whole_number(value) for value in meant} == meant
    for value in (True, None, "", "five", "5.5", 5.5, "1e3", float("nan"), float("inf"), 2**53, "9" * 99, [], {}):
        assert whole_number(value) is None, value
    assert [finite_number(value, 1e5) for value in ("74.1", 3, ".5", "1e2", -2.5)] == [74.1, 3, 0.5, 100.0, -2.5]
    for value in ("nan", "1_000", "0x10", None, True, 1e6, "1e999", [], "٣"):
        assert finite_number(value, 1e5) is None, value
    assert [flag(value) for value in (0, 1, 0.0, True, "false", "1", "TRUE")] == [0, 1, 0, 1, 0, 1, 1]
    assert [flag(value) for value in (2, -1, None, "yes", [], "")] == [None] * 6


def test_test_splits_have_categories_that_nothing_uses(drawn: Path, clean: Content, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "test2017").symlink_to(drawn / "images")
    content = {"images": clean["images"], "categories": [{"id": 90, "name": "toothbrush"}]}
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    dataset = check_categories(load_coco_layout(tmp_path, "test-dev2017"), 3)
    assert dataset.annotations is None and dataset.categories == {}


@pytest.mark.parametrize(
    ("case", "ap"),
    [
        ("coco_null_fields/area_null", 0.5114), ("coco_null_fields/area_str", 0.5114),
        ("coco_null_fields/iscrowd_null", 0.5114), ("coco_null_fields/iscrowd_str", 0.5114),
        ("coco_category_unlisted/ann_unknown_cat", 0.5114), ("coco_null_fields/imgid_unhash", None),
    ],
)  # fmt: skip
def test_files_of_a_trained_models_dataset(case: str, ap: float | None, shared: Path) -> None:
    """Against the official detections of the six images that these files list."""
    shapes = shared / "shapes"
    path = shared / "cases" / f"{case}.json"
    if ap is None:
        with pytest.raises(InputError, match=r"found image_id \[1\] in annotation 1"):
            load_annotated(shapes / "images", path)
        return
    dataset = load_annotated(shapes / "images", path)
    ids = {image.id for image in dataset.images}
    official = json.loads((shapes / "official" / "numpy.gaussian.json").read_text())
    found = [item for item in official if item["image_id"] in ids]
    assert coco_metrics(dataset, found).ap == pytest.approx(ap, abs=2e-4)
