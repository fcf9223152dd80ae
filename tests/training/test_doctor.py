"""The data doctor names what is wrong with data, and nothing where nothing is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet_model.errors import InputError
from tests.training.data_cases import drawn, small_config, write_coco
from tests.training.test_formats import write_openimages, write_voc, write_yolo
from training.data import DataSource, open_dataset
from training.data.doctor import DataReport, examine

Rows = Sequence[Sequence[tuple[int, Sequence[float]]]]

GOOD: Rows = [
    [(1, [10, 5, 30, 20]), (2, [44, 20, 28, 28]), (3, [2, 30, 25, 18])],
    [(2, [1, 2, 60, 40]), (1, [30, 10, 30, 30])],
    [(3, [20, 8, 40, 36])],
] * 5  # fmt: skip


def report(folder: Path, boxes: Rows, **options: Any) -> DataReport:
    return examine(open_dataset(write_coco(folder, boxes, area=1.0, iscrowd=0, **options)), small_config(128))


def kinds(found: DataReport, level: str) -> set[str]:
    return {finding.kind for finding in found.findings if finding.level == level}


def test_good_data_has_no_errors_and_no_warnings(tmp_path: Path) -> None:
    found = report(tmp_path, GOOD)
    assert kinds(found, "error") == kinds(found, "warning") == set()
    assert found.classes == {"disc": 10, "square": 10, "triangle": 10} and found.boxes == 30
    found.refuse()
    assert found.picture is not None and found.lines()[0] == "15 pictures, 30 boxes, 3 classes"
    assert kinds(examine(drawn(tmp_path / "drawn", 30), small_config(128)), "warning") == set()


def as_corners(boxes: Rows, turned: bool = False) -> Rows:
    """What [x, y, width, height] is where the writer gives corners, y first if turned."""
    rows = [[(c, (x, y, x + w, y + h)) for c, (x, y, w, h) in each] for each in boxes]
    return [[(c, (y, x, v, u)) for c, (x, y, u, v) in each] for each in rows] if turned else rows


@pytest.mark.parametrize(
    ("boxes", "reading"),
    (
        (as_corners(GOOD), "corners [x0, y0, x1, y1]"),
        (as_corners(GOOD, turned=True), "corners [y0, x0, y1, x1]"),
        ([[(c, (y, x, h, w)) for c, (x, y, w, h) in each] for each in GOOD], "[y, x, height, width]"),
    ),
)
def test_another_order_of_coordinates_is_named(tmp_path: Path, boxes: Rows, reading: str) -> None:
    found = report(tmp_path, boxes)
    (order,) = [finding for finding in found.warnings if finding.kind == "coordinate_order"]
    assert f"if the four numbers were {reading}" in order.message
    assert order.count > 5 and order.examples and found.picture is not None


def test_the_orders_of_other_formats_are_named(tmp_path: Path) -> None:
    yolo = write_yolo(tmp_path / "yolo")
    (yolo / "labels" / "train" / "a.txt").write_text("0 .3 .4 .8 .9\n1 .5 .55 .95 .9\n2 .6 .2 .9 .9\n" * 5)
    found = examine(open_dataset(DataSource(coco=yolo)), small_config())
    assert any("corners x0 y0 x1 y1" in finding.message for finding in found.warnings)
    openimages = write_openimages(tmp_path / "open")
    table = openimages / "train-annotations-bbox.csv"
    table.write_text(table.read_text().replace("XMin,XMax,YMin,YMax", "XMax,XMin,YMax,YMin"))
    found = examine(open_dataset(DataSource(coco=openimages)), small_config())
    assert any("the second corner before the first" in finding.message for finding in found.warnings)
    voc = write_voc(tmp_path / "voc")
    for path in (voc / "Annotations").iterdir():
        text = path.read_text().replace("xm", "?m").replace("ym", "xm").replace("?m", "ym")
        path.write_text(text)
    found = examine(open_dataset(DataSource(coco=voc)), small_config())
    assert any("y before x" in finding.message for finding in found.warnings)


def test_boxes_outside_empty_cut_and_twice_are_counted(tmp_path: Path) -> None:
    wrong = [(1, [200, 5, 30, 20]), (1, [5, 5, 0, 20]), (1, [5, 5, 90, 20]), (2, [5, 6, 7, 8]), (2, [5, 6, 7, 8])]
    found = report(tmp_path, [*GOOD, *GOOD, wrong])
    counts = {finding.kind: finding.count for finding in found.warnings}
    assert counts.pop("copied_images", 0) == 0
    assert counts == {"outside_boxes": 1, "empty_boxes": 1, "clipped_boxes": 1, "repeated_boxes": 1}


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    assert kinds(report(tmp_path / "none", [[], []]), "error") == {"no_boxes"}
    found = report(tmp_path / "outside", [[(1, [200, 200, 5, 5])]])
    assert kinds(found, "error") == {"no_usable_boxes"}
    with pytest.raises(InputError, match="None of 1 boxes lies in its picture"):
        found.refuse()


def test_missing_damaged_and_other_pictures_are_named(tmp_path: Path) -> None:
    source = write_coco(tmp_path, GOOD)
    images = tmp_path / "images"
    (images / "1.png").unlink()
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:200])
    (images / "3.png").write_bytes(b"")
    Image.new("RGB", (50, 80)).save(images / "4.png")
    shutil.copy(images / "5.png", images / "6.png")
    found = examine(open_dataset(source), small_config(128))
    assert kinds(found, "error") == {"missing_images", "unreadable_images"} and found.unusable == (0, 1, 2)
    assert {"other_sizes", "copied_images"} <= kinds(found, "warning")
    (sizes,) = [finding for finding in found.warnings if finding.kind == "other_sizes"]
    assert "4.png: 50x80 said, 80x50 found" in sizes.message
    whole = open_dataset(source).subset(range(3, 15))
    assert kinds(examine(whole, small_config(128)), "error") == set()


def test_pictures_that_their_exif_data_turns_are_named(tmp_path: Path) -> None:
    source = write_coco(tmp_path, GOOD)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 80)).save(tmp_path / "images" / "4.png", exif=exif)
    found = examine(open_dataset(source), small_config(128))
    (sizes,) = [finding for finding in found.warnings if finding.kind == "other_sizes"]
    assert "1 of them carry EXIF data that turns them" in sizes.message


def test_a_validation_picture_in_the_training_set_is_named(tmp_path: Path) -> None:
    train = open_dataset(write_coco(tmp_path / "train", GOOD))
    val = open_dataset(write_coco(tmp_path / "val", GOOD[:2]), like=train)
    found = examine(train, small_config(128), validation=val)
    (leak,) = [finding for finding in found.warnings if finding.kind == "leaked_images"]
    assert leak.count == leak.of == 2


def test_ids_from_0_with_gaps_and_beyond_the_model_are_named(tmp_path: Path) -> None:
    shifted = [[(c - 1, box) for c, box in each] for each in GOOD]
    found = report(tmp_path / "zero", shifted, categories={0: "a", 1: "b", 2: "c"})
    (zero,) = [finding for finding in found.warnings if finding.kind == "ids_from_zero"]
    assert "0 (a) is class 1 here" in zero.message
    gaps = [[(2 * c, box) for c, box in each] for each in GOOD]
    found = report(tmp_path / "gaps", gaps, categories={2: "a", 4: "b", 6: "c"})
    assert "id_gaps" in kinds(found, "note") and kinds(found, "error") == {"too_many_classes"}
    with pytest.raises(InputError, match="class ids up to 6, the model 3 classes"):
        found.refuse()


def test_classes_that_are_rare_uneven_or_named_twice_are_named(tmp_path: Path) -> None:
    many = [[(1, [x % 60, x % 30, 20, 20]) for x in range(120)], [(2, [5, 5, 30, 30])]] * 2
    found = report(tmp_path / "uneven", many, categories={1: "a", 2: "b", 3: "c"})
    assert {"rare_classes", "class_balance", "classes_without_boxes"} <= kinds(found, "warning")
    assert "many_boxes" in kinds(found, "note")
    found = report(tmp_path / "twice", GOOD, categories={1: "a", 2: "A ", 3: "c"})
    assert "equal_names" in kinds(found, "warning")


def test_boxes_that_no_anchor_matches_are_counted(tmp_path: Path) -> None:
    slim = [[(1, [2, y, 76, 2]) for y in range(2, 44, 6)]] * 3
    found = report(tmp_path / "slim", slim)
    (missed,) = [finding for finding in found.warnings if finding.kind == "unmatched_boxes"]
    assert missed.count == missed.of == 21 and "tiny_boxes" in kinds(found, "warning")
    (fine,) = [finding for finding in report(tmp_path / "good", GOOD).notes if finding.kind == "unmatched_boxes"]
    assert fine.count < fine.of / 4


def test_pictures_without_boxes_and_crowds_are_noted(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [*GOOD, [], []], iscrowd=1)
    found = examine(open_dataset(source), small_config(100))
    assert {"images_without_boxes", "crowds", "image_size"} <= kinds(found, "note")


def test_the_report_is_saved_with_a_picture_of_examples(tmp_path: Path) -> None:
    found = report(tmp_path / "data", as_corners(GOOD))
    paths = found.save(tmp_path / "report")
    assert [path.name for path in paths] == ["data.json", "data.png"]
    stored = json.loads(paths[0].read_text())
    (order,) = [finding for finding in stored["findings"] if finding["kind"] == "coordinate_order"]
    assert order["count"] > 5 and order["examples"][0]["picture"].endswith(".png")
    assert np.asarray(Image.open(paths[1])).std() > 5
    assert any("[" in line and ".png" in line for line in found.lines())


def test_progress_counts_pictures(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    examine(open_dataset(write_coco(tmp_path, GOOD)), small_config(), progress=lambda *done: seen.append(done))
    assert seen[-1] == (15, 15) and len(seen) == 15
