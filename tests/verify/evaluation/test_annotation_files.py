"""Annotation files as a whole, their images and their categories: read, or refused with the place."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.drawn_images import draw_dataset
from effdet_model.errors import InputError
from verify.evaluation.coco import CocoDataset, check_categories, load_annotated

Content = dict[str, Any]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), 12).parent


@pytest.fixture(scope="module")
def clean(drawn: Path) -> Content:
    content: Content = json.loads((drawn / "instances.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def load(drawn: Path, tmp_path: Path) -> Callable[..., CocoDataset]:
    def loaded(content: Any, **how: Any) -> CocoDataset:
        path = tmp_path / "annotations.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return load_annotated(drawn / "images", path, **how)

    return loaded


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            {"id": "a.jpg", "file_name": "a.jpg"},
            "found id 'a.jpg' and file_name 'a.jpg' as image 13; COCO's results format and google/automl know no "
            r"others \(up to 9007199254740991\): number the images, and the image_id of their annotations alike",
        ),
        ({"id": [1], "file_name": "a.jpg"}, "a whole number as id"),
        ({"id": None, "file_name": "a.jpg"}, "a whole number as id"),
        ({"id": True, "file_name": "a.jpg"}, "a whole number as id"),
        ({"id": 2**60, "file_name": "a.jpg"}, "a whole number as id"),
        ({"id": 99}, "found id 99 and file_name None"),
        ({"id": 99, "file_name": 5}, "and a file_name"),
        ({"id": 99, "file_name": "a\0b"}, "and a file_name"),
        ({"id": 99, "file_name": "\ud800.jpg"}, "and a file_name"),
        ({"id": 99, "file_name": "a" * 5000}, "and a file_name"),
        ("a.jpg", "found 'a.jpg' as image 13"),
        ({"id": "1", "file_name": "a.jpg"}, "every image id once, found 1 twice"),
        ({"id": 99, "file_name": "a.jpg", "height": "tall", "width": 4}, "a height and width of at least 1 pixel"),
        ({"id": 99, "file_name": "a.jpg", "height": 10**400, "width": 4}, "a height and width of at least 1 pixel"),
    ],
)
def test_images_that_cannot_be_used(
    image: Any, message: str, clean: Content, load: Callable[..., CocoDataset]
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load({**clean, "images": [*clean["images"], image]})
    assert len(str(caught.value)) < 600


def test_sizes_as_text_are_read(clean: Content, load: Callable[..., CocoDataset]) -> None:
    broken = copy.deepcopy(clean)
    for image in broken["images"]:
        image["height"], image["width"] = str(image["height"]), float(image["width"])
    assert load(broken).images == load(clean).images


def test_a_file_under_two_ids(clean: Content, load: Callable[..., CocoDataset]) -> None:
    """Converters write one image per annotation: then no entry has all boxes of its picture."""
    broken = copy.deepcopy(clean)
    broken["images"].append({**broken["images"][0], "id": 500})
    owned = [box for box in broken["annotations"] if box["image_id"] == broken["images"][0]["id"]]
    owned[0]["image_id"] = 500
    with pytest.raises(InputError, match=r"one id per image file, found 0+1\.jpg as 1, 500 with different boxes"):
        load(broken)
    left_out = load(broken, skip_bad=True)
    assert len(left_out.images) == 12 and 500 not in {box["image_id"] for box in left_out.annotations or ()}
    owned[0]["image_id"] = broken["images"][0]["id"]
    broken["annotations"] += [{**box, "id": 900 + box["id"], "image_id": 500} for box in owned]
    assert any("listed under several ids" in note for note in load(broken).notes)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": "disc"}], "categories with a whole number as id, found 'disc' in category 1"),
        ([{"id": None}], "found None in category 1"),
        (["disc"], "found 'disc' in category 1"),
        ([{"id": 1, "name": "disc"}, {"id": 1, "name": "ring"}], "every category id once, found 1 as 'disc' and"),
    ],
)
def test_categories_that_cannot_be_used(
    categories: Any, message: str, clean: Content, load: Callable[..., CocoDataset]
) -> None:
    with pytest.raises(InputError, match=message):
        load({**clean, "categories": categories})


def test_a_category_listed_twice_alike_and_names_that_are_no_text(
    clean: Content, load: Callable[..., CocoDataset]
) -> None:
    extra = [clean["categories"][0], {"id": 4, "name": None}, {"id": 5, "name": "\ud800"}, {"id": 6, "name": 3}]
    categories = load({**clean, "categories": clean["categories"] + extra}).categories
    assert categories == {1: "disc", 2: "square", 3: "triangle", 4: "4", 5: "?", 6: "3"}


def test_bom_utf16_and_gzip_are_read(clean: Content, load: Callable[..., CocoDataset]) -> None:
    text = json.dumps(clean)
    expected = load(clean).annotations
    for data in (text.encode("utf-8-sig"), text.encode("utf-16"), gzip.compress(text.encode())):
        assert load(data).annotations == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"{}", mtime=0)[:-9], "a whole gzip file"),
        (gzip.compress(b" " * (2**28 + 1), 1, mtime=0), "becomes more than 256 MiB"),
        (b"PK\x03\x04", "a .zip archive; unpack it first"),
        (b"", "found no JSON"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "found no JSON"),
        (b"[" * 100_000, "found no JSON"),
        (b'[{"image_id": 1, "score": 0.5}]', "a JSON list of detections"),
        (b"null", "found a JSON NoneType"),
        (b'{"images": null, "annotations": [], "categories": []}', "'images' to be a list, found null"),
        (b'{"images": [], "annotations": {}, "categories": []}', "'annotations' to be a list, found a dict"),
    ],
)
def test_files_of_another_kind(data: bytes, message: str, load: Callable[..., CocoDataset]) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(data)
    assert len(str(caught.value)) < 600


def test_ids_that_mean_other_classes_are_told(clean: Content, load: Callable[..., CocoDataset]) -> None:
    """80 ids without gaps and weights of COCO's 90: an AP near 0 would be all that shows it."""
    names = {1: "disc", 2: "blank", 3: "Square", 5: "triangle_"}
    broken = copy.deepcopy(clean)
    broken["categories"] = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}, {"id": 3, "name": "triangle"}]
    notes = check_categories(load(broken), 5, names=names).notes
    assert any(
        "2 of 3 categories have the name of another class of the weights, such as 2 (square), which is their 3, 3 "
        "(triangle), which is their 5; if the ids mean the same" in note for note in notes
    ), notes
    for fitting in (None, {1: "disc", 2: "square", 3: "triangle"}, {1: "person", 2: "bicycle", 3: "car"}):
        assert check_categories(load(broken), 5, names=fitting).notes == ()
