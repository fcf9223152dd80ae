"""The same pictures and boxes as COCO, VOC, YOLO and OpenImages: recognised, and read as the same data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet_model.errors import InputError
from tests.training.data_cases import write_coco
from training.data import DataSource, DetectionDataset, open_dataset
from verify.evaluation.coco import load_annotated

BOXES = [[(1, [10, 5, 30, 20]), (3, [40, 25, 20, 10])], [], [(2, [1, 2, 60, 40])]]
NAMES = {1: "disc", 2: "square", 3: "triangle"}
HEIGHT, WIDTH = 50, 80


def write_images(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{name}.png" for name in ("a", "b", "c")]
    for path in paths:
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)
    return paths


def write_voc(folder: Path, first: int = 1, extra: str = "") -> Path:
    """`first`: of the numbers that pixels are counted by."""
    (folder / "Annotations").mkdir(parents=True)
    for path, boxes in zip(write_images(folder / "JPEGImages"), BOXES, strict=True):
        objects = "".join(
            f"<object><name>{NAMES[category]}</name><difficult>{int(category == 3)}</difficult><bndbox>"
            f"<xmin>{x + first}</xmin><ymin>{y + first}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
            "</bndbox></object>"
            for category, (x, y, width, height) in boxes
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<?xml version='1.0'?>{extra}<annotation>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{path.stem}.xml").write_text(text)
    return folder


def write_yolo(folder: Path) -> Path:
    (folder / "labels" / "train").mkdir(parents=True)
    for path, boxes in zip(write_images(folder / "images" / "train"), BOXES, strict=True):
        rows = [
            f"{category - 1} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n"
            for category, (x, y, w, h) in boxes
        ]
        if rows:
            (folder / "labels" / "train" / f"{path.stem}.txt").write_text("".join(rows))
    names = "".join(f"  {number - 1}: {name}\n" for number, name in NAMES.items())
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")
    return folder


def write_openimages(folder: Path) -> Path:
    rows = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf"]
    for path, boxes in zip(write_images(folder / "images"), BOXES, strict=True):
        for category, (x, y, w, h) in boxes:
            corners = f"{x / WIDTH},{(x + w) / WIDTH},{y / HEIGHT},{(y + h) / HEIGHT}"
            rows.append(f"{path.stem},xclick,/m/0{category},1,{corners},0,{int(category == 3)}")
    (folder / "train-annotations-bbox.csv").write_text("\n".join([*rows, "elsewhere,x,/m/01,1,0,1,0,1,0,0", ""]))
    (folder / "class-descriptions-boxable.csv").write_text("".join(f"/m/0{n},{name}\n" for n, name in NAMES.items()))
    return folder


WRITERS = {"voc": write_voc, "yolo": write_yolo, "openimages": write_openimages}


def check(data: DetectionDataset) -> None:
    assert data.label_map == NAMES and len(data) == 3 and data.num_boxes == 3
    for example, boxes in zip((data[index] for index in range(3)), BOXES, strict=True):
        assert example.image.shape == (HEIGHT, WIDTH, 3) and example.image.dtype == np.uint8
        expected = [[y, x, y + height, x + width] for _, (x, y, width, height) in boxes]
        np.testing.assert_allclose(example.boxes_yxyx, np.array(expected, np.float32).reshape(-1, 4), atol=1e-4)
        assert example.boxes_yxyx.dtype == np.float32 and example.boxes_yxyx.shape == (len(boxes), 4)
        assert example.classes.tolist() == [category for category, _ in boxes]
        assert example.path.is_file()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_is_recognised_and_read(tmp_path: Path, kind: str) -> None:
    data = open_dataset(DataSource(coco=WRITERS[kind](tmp_path / "data")))
    assert data.format == kind
    check(data)


@pytest.mark.parametrize(
    ("kind", "images", "annotations"),
    (
        ("voc", "JPEGImages", "Annotations"),
        ("yolo", "images/train", "labels/train"),
        ("yolo", "images/train", "data.yaml"),
        ("openimages", "images", "train-annotations-bbox.csv"),
    ),
)
def test_pictures_and_annotations_apart_are_recognised(
    tmp_path: Path, kind: str, images: str, annotations: str
) -> None:
    folder = WRITERS[kind](tmp_path / "data")
    data = open_dataset(DataSource(images=folder / images, annotations=folder / annotations))
    assert data.format == kind
    check(data)


def test_coco_is_recognised_in_both_ways(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "own", BOXES)
    check(open_dataset(source))
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    shutil.move(tmp_path / "own" / "images", tmp_path / "coco" / "train2017")
    shutil.move(tmp_path / "own" / "truth.json", tmp_path / "coco" / "annotations" / "instances_train2017.json")
    check(open_dataset(DataSource(coco=tmp_path / "coco")))
    check(open_dataset(DataSource(coco=tmp_path / "coco", split="train")))


def test_roboflows_layout_is_coco(tmp_path: Path) -> None:
    write_coco(tmp_path, BOXES)
    shutil.move(tmp_path / "images", tmp_path / "train")
    shutil.move(tmp_path / "truth.json", tmp_path / "train" / "_annotations.coco.json")
    check(open_dataset(DataSource(coco=tmp_path)))


def test_marks_of_the_formats_are_kept(tmp_path: Path) -> None:
    voc = open_dataset(DataSource(coco=write_voc(tmp_path / "voc")))
    assert voc[0].difficult.tolist() == [False, True] and voc[0].crowd.tolist() == [False, False]
    images = open_dataset(DataSource(coco=write_openimages(tmp_path / "open")))
    assert images[0].crowd.tolist() == [False, True]
    assert any("1 rows of pictures that are not in" in note for note in images.notes)


def test_voc_files_that_count_from_0_are_seen(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, first=0)
    text = (folder / "Annotations" / "c.xml").read_text()
    (folder / "Annotations" / "c.xml").write_text(text.replace("<xmin>1<", "<xmin>0<"))
    data = open_dataset(DataSource(coco=folder))
    assert data[0].boxes_yxyx[0].tolist() == [5, 10, 25, 40] and "Pixels are counted from 0" in " ".join(data.notes)


def test_a_split_of_voc_is_its_list(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "val.txt").write_text("c\na\n")
    data = open_dataset(DataSource(coco=folder, split="val"))
    assert [picture.path.stem for picture in data.pictures] == ["c", "a"]
    (folder / "ImageSets" / "Main" / "val.txt").write_text("c\nzebra\n")
    with pytest.raises(InputError, match="found none for 1 \\('zebra'"):
        open_dataset(DataSource(coco=folder, split="val"))


@pytest.mark.parametrize("kind", WRITERS)
def test_the_evaluation_reads_what_the_data_says_of_itself(tmp_path: Path, kind: str) -> None:
    data = open_dataset(DataSource(coco=WRITERS[kind](tmp_path / "data")))
    (tmp_path / "truth.json").write_text(json.dumps(data.coco_annotations()))
    truth = load_annotated(tmp_path, tmp_path / "truth.json")
    assert truth.categories == NAMES and len(truth.images) == 3
    found = [(box["category_id"], [round(value, 3) for value in box["bbox"]]) for box in truth.annotations or ()]
    assert found == [(category, list(map(float, bbox))) for boxes in BOXES for category, bbox in boxes]


ENTITIES = '<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'


def test_xml_with_entities_is_refused(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, extra=ENTITIES)
    with pytest.raises(InputError, match="found a document type"):
        open_dataset(DataSource(coco=folder))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    (
        ("voc/Annotations/a.xml", "<annotation><object>", "expected XML, found"),
        ("voc/Annotations/a.xml", "<a><object><name>x</name></object></a>", "expected bndbox with xmin.*in object 1"),
        (
            "voc/Annotations/a.xml",
            "<a><object><name>x</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>2</xmax><ymax>3</ymax></bndbox>"
            "</object></a>",
            "expected bndbox",
        ),
        ("yolo/labels/train/a.txt", "0 0.5 0.5 0.1\n", "line 1: expected class, center x"),
        ("yolo/labels/train/a.txt", "0 0.5 nan 0.1 0.1\n", "line 1: expected class, center x"),
        ("yolo/labels/train/a.txt", "-1 0.5 0.5 0.1 0.1\n", "line 1: expected class, center x"),
        ("yolo/labels/train/a.txt", "7 0.5 0.5 0.1 0.1\n", r"expected class numbers that have names"),
        ("yolo/data.yaml", "names: 3\ntrain: images/train\n", "expected a list of class names"),
        ("yolo/data.yaml", "names: [a]\ntrain: nowhere\n", "found no such folder"),
        ("yolo/data.yaml", "names: [a]\n", "expected a folder of pictures as train"),
        ("openimages/train-annotations-bbox.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax\na,b,x,1,0,1\n", "row 2: exp"),
        ("openimages/train-annotations-bbox.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax\n", "found none among 0 rows"),
    ),
)
def test_what_is_no_box_is_refused_with_its_place(tmp_path: Path, file: str, text: str, message: str) -> None:
    kind = file.partition("/")[0]
    WRITERS[kind](tmp_path / kind)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        open_dataset(DataSource(coco=tmp_path / kind))
    assert len(str(error.value)) < 800


@pytest.mark.parametrize(
    ("file", "text"),
    (
        ("voc/Annotations/a.xml", "<a><object><name>disc</name></object></a>"),
        ("yolo/labels/train/a.txt", "no box\n0 0.5 0.5 0.1 0.1\n"),
    ),
)
def test_what_is_no_box_is_left_out_where_asked(tmp_path: Path, file: str, text: str) -> None:
    kind = file.partition("/")[0]
    WRITERS[kind](tmp_path / kind)
    (tmp_path / file).write_text(text)
    data = open_dataset(DataSource(coco=tmp_path / kind, skip_bad=True))
    assert len(data) == 3 and any("left out" in note for note in data.notes)


def test_a_folder_of_nothing_known_says_what_is_expected(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures")
    with pytest.raises(InputError, match=r"expected COCO .* or OpenImages .*, found none of these"):
        open_dataset(DataSource(coco=tmp_path))
    with pytest.raises(InputError, match="Did you mean yolo"):
        open_dataset(DataSource(coco=tmp_path, format="yola"))


def test_polygons_of_yolo_become_boxes(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "labels" / "train" / "a.txt").write_text("1 0.1 0.2 0.5 0.2 0.5 0.6\n")
    example = open_dataset(DataSource(coco=folder))[0]
    np.testing.assert_allclose(example.boxes_yxyx, [[10, 8, 30, 40]], atol=1e-4)


@pytest.mark.parametrize(
    ("categories", "label_map"),
    (
        ({0: "a", 1: "b"}, {1: "a", 2: "b"}),
        ({1: "a", 3: "b"}, {1: "a", 3: "b"}),
        ({500: "a", 9000: "b"}, {1: "a", 2: "b"}),
        ({-1: "a", 4: "b"}, {1: "a", 2: "b"}),
        ({0: "things", 1: "a"}, {1: "a"}),
    ),
)
def test_category_ids_become_classes_from_1_on(
    tmp_path: Path, categories: dict[int, str], label_map: dict[int, str]
) -> None:
    used = [id_ for id_, name in categories.items() if name != "things"]
    data = open_dataset(write_coco(tmp_path, [[(id_, [3, 4, 20, 20]) for id_ in used]], categories=categories))
    assert data.label_map == label_map and data[0].classes.tolist() == sorted(label_map)
    assert bool(data.numbers.notes) == (categories.keys() != label_map.keys())


def test_a_validation_set_has_the_training_sets_classes_by_name(tmp_path: Path) -> None:
    train = open_dataset(write_coco(tmp_path / "train", BOXES))
    other = write_coco(tmp_path / "val", [[(8, [3, 4, 20, 20])]], categories={8: "Square", 9: "disc"})
    val = open_dataset(other, like=train)
    assert val.label_map == train.label_map and val[0].classes.tolist() == [2]
    strange = write_coco(tmp_path / "strange", [[(1, [3, 4, 20, 20])]], categories={1: "star"})
    with pytest.raises(InputError, match=r"found boxes of 1 \(star\)"):
        open_dataset(strange, like=train)
