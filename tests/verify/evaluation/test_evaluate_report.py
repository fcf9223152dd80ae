"""The page of an evaluation, and the analysis that it shows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo.drawn_images import draw_dataset
from effdet_model.errors import InputError
from tests.verify.evaluation.cases import run, tiny_weights
from verify.evaluation.coco import CocoDataset, load_annotated
from verify.evaluation.findings.analysis import BACKGROUND, OperatingPoint, analyse
from verify.evaluation.metrics import coco_metrics
from verify.evaluation.result import EvaluationResult
from verify.evaluation.run import EvaluateOptions
from verify.evaluation.show import measured_text
from verify.evaluation.store import ImageResult
from verify.report.evaluation import evaluation_report, write_evaluation_report
from verify.report.markdown import render_markdown


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), 12).parent


@pytest.fixture(scope="module")
def dataset(drawn: Path) -> CocoDataset:
    return load_annotated(drawn / "images", drawn / "instances.json")


@pytest.fixture(scope="module")
def options(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateOptions:
    folder = tmp_path_factory.mktemp("weights")
    return EvaluateOptions(
        weights=tiny_weights(folder / "tiny.pth"), images=drawn / "images", annotations=drawn / "instances.json",
        limit=4, report=folder / "page",
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(options: EvaluateOptions) -> EvaluationResult:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = run(options)
    torch.set_num_threads(before)
    return found


def perfect(dataset: CocoDataset, score: float = 0.9) -> list[ImageResult]:
    rows: dict[int, list[list[float]]] = {image.id: [] for image in dataset.images}
    for box in dataset.annotations or ():
        rows[box["image_id"]].append([*box["bbox"], score, box["category_id"]])
    return [ImageResult(id_, np.array(found, np.float32).reshape(-1, 6)) for id_, found in rows.items()]


def with_rows(results: list[ImageResult], index: int, rows: Any) -> list[ImageResult]:
    changed = dataclasses.replace(results[index], rows=np.array(rows, np.float32).reshape(-1, 6))
    return [*results[:index], changed, *results[index + 1 :]]


def test_perfect_detections_lie_on_the_diagonal(dataset: CocoDataset) -> None:
    analysis = analyse(dataset, perfect(dataset))
    counts = np.array(analysis.confusion)
    assert analysis.labels == ("disc", "square", "triangle", BACKGROUND)
    assert np.array_equal(counts, np.diag(np.diag(counts))) and counts.sum() == len(dataset.annotations or ())
    assert analysis.point == OperatingPoint(pytest.approx(0.9), 1.0, 1.0, 1.0)  # type: ignore[arg-type]
    assert all(image.f1 == 1.0 for image in analysis.images)
    assert sum(truths for truths, _ in analysis.sizes.values()) == counts.sum()
    assert all(truths == hits for truths, hits in analysis.sizes.values())


def test_a_wrong_class_a_false_box_and_a_missed_one_are_told_apart(dataset: CocoDataset) -> None:
    results = perfect(dataset)
    first, second = results[0].rows.copy(), results[1].rows
    truth = int(first[0, 5])
    wrong = truth % 3 + 1
    first[0, 5] = wrong
    results = with_rows(results, 0, [*first, [0, 0, 3, 3, 0.9, 1]])
    results = with_rows(results, 1, second[1:])
    analysis = analyse(dataset, results)
    counts = np.array(analysis.confusion)
    off = counts - np.diag(np.diag(counts))
    lost = int(second[0, 5])
    expected = np.zeros_like(off)
    expected[truth - 1, wrong - 1] += 1
    expected[3, 0] += 1
    expected[lost - 1, 3] += 1
    assert np.array_equal(off, expected)
    image = analysis.images[0]
    assert (image.false, image.missed) == (2, 1) and image.hits == image.truths - 1
    assert (analysis.images[1].false, analysis.images[1].missed) == (0, 1)


def test_the_operating_point_has_the_best_f1_and_leaves_weak_boxes_out(dataset: CocoDataset) -> None:
    results = perfect(dataset)
    noise = [[5.0, 5.0, 4.0, 4.0, 0.2, 1]] * 30
    results = with_rows(results, 0, [*results[0].rows, *noise])
    analysis = analyse(dataset, results)
    assert analysis.point is not None and analysis.point.score == pytest.approx(0.9) and analysis.point.f1 == 1.0
    assert analysis.images[0].false == 0
    assert sum(analysis.other_scores) == 30 and analysis.other_scores[3] + analysis.other_scores[4] == 30


def test_a_crowd_is_no_object_and_what_lies_in_it_no_error(dataset: CocoDataset) -> None:
    boxes = [dict(box) for box in dataset.annotations or ()]
    boxes[0]["iscrowd"] = 1
    analysis = analyse(dataclasses.replace(dataset, annotations=tuple(boxes)), perfect(dataset))
    assert np.array(analysis.confusion).sum() == len(boxes) - 1
    assert analysis.images[0].false == 0 and analysis.images[0].missed == 0


def test_no_detections_and_no_objects(dataset: CocoDataset) -> None:
    nothing = [ImageResult(image.id, np.zeros((0, 6), np.float32)) for image in dataset.images]
    without_any = analyse(dataset, nothing)
    assert without_any.point is None and sum(image.missed for image in without_any.images) == len(
        dataset.annotations or ()
    )
    empty = analyse(dataclasses.replace(dataset, annotations=()), perfect(dataset))
    assert empty.point is None and empty.labels == (BACKGROUND,)


def test_curves_and_classes_agree_with_the_metrics(dataset: CocoDataset) -> None:
    found = [item for result in perfect(dataset) for item in result.coco_results()][3:]
    metrics = coco_metrics(dataset, found)
    assert metrics.curves is not None and len(metrics.curves.recalls) == 101
    areas = {iou: float(np.mean(values)) for iou, values in metrics.curves.by_iou.items()}
    assert areas["0.50"] == pytest.approx(metrics.values["AP50"]) == pytest.approx(areas["0.75"])
    assert areas["0.50:0.95"] == pytest.approx(metrics.ap)
    for name, one in metrics.classes.items():
        assert one.ap == metrics.per_class[name]
        assert one.ap50 == pytest.approx(np.mean(metrics.curves.by_class[name]))


def test_the_page_is_whole_and_needs_no_network(result: EvaluationResult, options: EvaluateOptions) -> None:
    assert options.report is not None
    pages = write_evaluation_report(result, Path(options.report))
    assert [page.name for page in pages] == ["evaluate.json", "evaluate.md", "evaluate.html"]
    html = pages[2].read_text(encoding="utf-8")
    for title in (
        "COCO metrics", "Precision over recall", "AP per class", "Every class", "By size", "Confusion matrix",
        "Worst images", "All 4 images", "How to reproduce", "Settings", "Suppression",
    ):  # fmt: skip
        assert f">{title}" in html, title
    assert "IoU at least 0.5" in html and "score at least" in html and result.weights_sha256 in html
    assert html.count("data:image/jpeg;base64,") == len(result.examples) >= 3
    assert "default-src &#39;none&#39;" in html and "connect-src &#39;none&#39;" in html
    content = json.loads(pages[0].read_text(encoding="utf-8"))
    assert content["AP"] == result.metrics.ap  # type: ignore[union-attr]
    assert len(content["analysis"]["images"]) == 4 and content["analysis"]["images"][0]["file_name"].endswith(".jpg")
    assert content["images_sha256"] and content["annotations_sha256"] and content["config_sha256"]
    assert "examples" not in content
    text = pages[1].read_text(encoding="utf-8")
    assert "Most frequent errors" in text and "python cli.py evaluate --weights" in text and "--limit 4" in text


def test_examples_show_the_worst_images_first_and_no_image_twice(result: EvaluationResult) -> None:
    ids = [example.image_id for example in result.examples]
    assert len(ids) == len(set(ids))
    assert result.analysis is not None
    f1 = {image.image_id: image.f1 or 0.0 for image in result.analysis.images}
    worst = [f1[example.image_id] for example in result.examples if example.kind == "worst"]
    assert worst == sorted(worst)
    assert all(example.jpeg.startswith(b"\xff\xd8\xff") for example in result.examples)


def test_without_a_report_nothing_is_analysed(options: EvaluateOptions) -> None:
    bare = run(options, report=None, limit=1)
    assert bare.analysis is None and bare.examples == ()


def test_minus_one_is_said_in_words(result: EvaluationResult) -> None:
    assert result.metrics is not None
    empty = dict.fromkeys(result.metrics.values, -1.0)
    classes = {"disc": dataclasses.replace(result.metrics.classes["disc"], ap=-1.0, ap50=-1.0, ap75=-1.0, ar100=-1.0)}
    metrics = dataclasses.replace(
        result.metrics, values=empty, per_class={"disc": -1.0}, classes=classes, curves=None
    )
    report = evaluation_report(dataclasses.replace(result, metrics=metrics))
    assert report.verdict.text.startswith("AP: nothing to measure on 4 images")
    text = render_markdown(report)
    assert "| `AP` | nothing to measure |" in text and "-1.0" not in text
    from verify.report.html import render_html

    assert "nothing to measure" in render_html(report) and ">-1.0000<" not in render_html(report)
    assert measured_text(-1.0) == "nothing to measure" and measured_text(0.5) == "0.5000"


def test_a_test_split_has_a_page_of_detections(options: EvaluateOptions, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "test2017").symlink_to(drawn / "images")
    content = json.loads((drawn / "instances.json").read_text(encoding="utf-8"))
    del content["annotations"]
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    found = run(
        options, images=None, annotations=None, coco=tmp_path, split="test-dev2017", limit=2,
        detections=tmp_path / "d.zip", report=tmp_path / "page",
    )  # fmt: skip
    page = write_evaluation_report(found, tmp_path / "page")[2].read_text(encoding="utf-8")
    assert "no annotations, so no metrics" in page and "Images with most detections" in page
    assert "Confusion matrix" not in page and "COCO metrics" not in page


def test_a_report_folder_that_cannot_be_is_refused_before_work(options: EvaluateOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="report folder"):
        run(options, report=tmp_path / "file")


def test_the_command_names_every_option_that_differs(result: EvaluationResult, options: EvaluateOptions) -> None:
    from verify.evaluation.options import command

    many = dataclasses.replace(
        options, image_size=(64, 128), nms="numpy_hard", amp=True, channels_last=False, batch_size=2,
        hparams="anchor_scale=3.0", skip_bad_images=True,
    )  # fmt: skip
    text = command(many, processes=2)
    assert text.startswith("torchrun --nproc-per-node 2 cli.py evaluate ")
    for part in (
        "--image-size 64x128", "--nms numpy_hard", "--amp", "--no-channels-last", "--batch-size 2",
        "--hparams anchor_scale=3.0", "--skip-bad-images",
    ):  # fmt: skip
        assert f" {part}" in text
    assert result.command == command(options)
