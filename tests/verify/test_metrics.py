"""The evaluator judged by itself: perfect detections give AP 1.0, others do not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from demo.drawn_images import draw_dataset
from effdet_model.errors import InputError
from verify.evaluation.coco import CocoDataset, load_annotated
from verify.evaluation.metrics import METRIC_NAMES, coco_metrics
from verify.evaluation.published import PublishedVerdict, era_of, published_verdict


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("drawn")
    return load_annotated(folder / "images", draw_dataset(folder, 12))


def detections(dataset: CocoDataset, shift: float = 0.0, drop: int = 0) -> list[dict[str, Any]]:
    boxes = list(dataset.annotations or ())[drop:]
    return [
        {
            "image_id": box["image_id"],
            "category_id": box["category_id"],
            "bbox": [box["bbox"][0] + shift * box["bbox"][2], *box["bbox"][1:]],
            "score": 0.9,
        }
        for box in boxes
    ]


def test_perfect_detections_give_1_in_every_ap_and_class(dataset: CocoDataset) -> None:
    metrics = coco_metrics(dataset, detections(dataset))
    assert tuple(metrics.values) == METRIC_NAMES
    assert [metrics.values[name] for name in ("AP", "AP50", "AP75", "ARmax100")] == pytest.approx([1.0] * 4)
    assert metrics.per_class == pytest.approx({"disc": 1.0, "square": 1.0, "triangle": 1.0})


def test_shifted_missing_and_no_detections_do_not(dataset: CocoDataset) -> None:
    shifted = coco_metrics(dataset, detections(dataset, shift=0.2))
    assert 0 < shifted.ap < 0.7 and shifted.values["AP50"] > shifted.values["AP75"]
    assert coco_metrics(dataset, detections(dataset, drop=10)).ap < 0.95
    assert coco_metrics(dataset, []).ap == 0.0


def test_a_wrong_class_shows_in_that_class_alone(dataset: CocoDataset) -> None:
    found = detections(dataset)
    for item in found:
        item["category_id"] = 2 if item["category_id"] == 1 else item["category_id"]
    per_class = coco_metrics(dataset, found).per_class
    assert per_class["disc"] == 0.0 and per_class["triangle"] == pytest.approx(1.0)


def test_only_the_images_asked_for_are_judged(dataset: CocoDataset) -> None:
    first = dataset.images[0].id
    found = [item for item in detections(dataset) if item["image_id"] == first]
    assert coco_metrics(dataset, found, [first]).ap == pytest.approx(1.0)
    assert coco_metrics(dataset, found).ap < 0.5


def test_refuses_strangers_unknown_engines_and_missing_annotations(dataset: CocoDataset) -> None:
    with pytest.raises(InputError, match="1 other image ids .999"):
        coco_metrics(dataset, [{**detections(dataset)[0], "image_id": 999}])
    with pytest.raises(InputError, match="unknown evaluator: 'faster'"):
        coco_metrics(dataset, [], evaluator="faster")
    with pytest.raises(InputError, match="expected annotations"):
        coco_metrics(dataclasses.replace(dataset, annotations=None), [])


def test_a_faster_engine_counts_only_where_it_agrees(
    dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from verify.evaluation import metrics as room

    class Wrong(COCOeval):  # type: ignore[misc]
        def summarize(self) -> None:
            super().summarize()
            self.stats[0] -= 0.01

    record = room._engine
    for engine, name in ((COCOeval, "faster_coco_eval"), (Wrong, "pycocotools")):
        chosen = (COCO, engine)
        monkeypatch.setattr(room, "_engine", lambda n, c=chosen: record(n) if n == "pycocotools" else c)
        metrics = coco_metrics(dataset, detections(dataset, shift=0.2), evaluator="faster_coco_eval")
        assert metrics.evaluator == name and metrics.notes
        assert metrics.ap == coco_metrics(dataset, detections(dataset, shift=0.2)).ap


def test_missing_area_and_iscrowd_are_filled_in(dataset: CocoDataset, tmp_path: Path) -> None:
    path = draw_dataset(tmp_path, 12)
    content = json.loads(path.read_text())
    for box in content["annotations"]:
        del box["area"], box["iscrowd"]
    path.write_text(json.dumps(content))
    bare = load_annotated(tmp_path / "images", path)
    assert bare.annotations == dataset.annotations and "without area" in bare.notes[0]


def published(ap: float, profile: str = "numpy_gaussian", **changes: Any) -> PublishedVerdict | None:
    from effdet_model.variants import get_config
    from porting.official.catalog import config_overrides, find
    from verify.evaluation.coco import ImageRecord

    images = tuple(ImageRecord(i, Path(f"{i}.jpg")) for i in range(5000))
    val2017 = CocoDataset(images, {}, (), "val2017", Path("instances_val2017.json"))
    config = get_config("d0", **{**config_overrides(find("d0", "coco2")), **changes})
    return published_verdict(val2017, config, profile, {"source": {"family": "coco2"}}, None, ap)


def test_the_published_ap_is_judged_only_with_the_published_semantics() -> None:
    target = era_of("d0", None, "coco2").entry.ap_val
    assert target is not None
    within, beyond = published(target / 100 + 0.0009), published(target / 100 - 0.0012)
    assert within is not None and within.judged and within.passed
    assert beyond is not None and beyond.judged and not beyond.passed
    for other in (
        published(0.1, profile="numpy_hard"),
        published(0.1, aspect_ratios=(1.0, 2.0, 0.5)),
        published(0.1, image_size=640),
    ):
        assert other is not None and not other.judged and other.passed and "not judged" in other.reason


def test_weights_of_ones_own_have_no_published_ap() -> None:
    with pytest.raises(InputError, match="name the family"):
        era_of("d0", {"source": {"family": None}})
    assert era_of("d3", {"source": {"family": "coco"}}).profile == "numpy_gaussian", "scored with soft-NMS"
    assert era_of("d0", None, "advprop").profile == "graph_gaussian_nocut"
