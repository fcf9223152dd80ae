"""The evaluator judged by itself: perfect detections give AP 1.0, others do not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
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


Val2017 = Callable[..., CocoDataset]


@pytest.fixture
def val2017(monkeypatch: pytest.MonkeyPatch) -> Val2017:
    """Makes datasets with as many images, annotations and categories as val2017 has; their ids pass for its ids."""
    from verify.evaluation import coco

    ids = range(1, 5001)
    monkeypatch.setattr(coco, "VALIDATION_IDS_SHA256", coco.ids_sha256(ids))

    def make(**changes: Any) -> CocoDataset:
        images = tuple(coco.ImageRecord(id_, Path(f"{id_:012d}.jpg")) for id_ in ids)
        categories = {id_: str(id_) for id_ in range(1, 81)}
        whole = CocoDataset(images, categories, ({"image_id": 1},) * 36781, "val2017", Path("instances_val2017.json"))
        return dataclasses.replace(whole, **changes)

    return make


def published(
    dataset: CocoDataset, ap: float = 0.1, profile: Any = "numpy_gaussian", metadata: Any = None, **how: Any
) -> PublishedVerdict | None:
    from effdet_model.nms_profiles import resolve_profile
    from effdet_model.variants import get_config
    from porting.official.catalog import config_overrides, find

    conditions = how.pop("conditions", ())
    profile = resolve_profile(profile) if isinstance(profile, str) else profile
    config = get_config("d0", **{**config_overrides(find("d0", "coco2")), **how})
    source = metadata or {"source": {"family": "coco2"}}
    return published_verdict(dataset, config, profile, source, None, ap, conditions)


def test_the_published_ap_is_judged_on_the_whole_set_with_the_published_semantics(val2017: Val2017) -> None:
    target = era_of("d0", None, "coco2").entry.ap_val
    assert target is not None
    whole = val2017()
    within, beyond = published(whole, target / 100 + 0.0009), published(whole, target / 100 - 0.0012)
    assert within is not None and within.judged and within.passed
    assert beyond is not None and beyond.judged and not beyond.passed


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"profile": "numpy_hard"}, "suppression (numpy_hard instead of numpy_gaussian)"),
        ({"aspect_ratios": (1.0, 2.0, 0.5)}, "anchors"),
        ({"image_size": 640}, "image size"),
        ({"act_type": "relu"}, "act_type"),
        ({"anchor_scale": 3.0}, "anchor_scale"),
        ({"mean_rgb": 0.0}, "mean_rgb"),
        ({"survival_prob": 0.5}, "survival_prob"),
        ({"fpn_weight_method": "sum"}, "fpn_weight_method"),
        ({"nms_configs": {"max_output_size": 10}}, "nms_configs"),
        ({"conditions": ["precision (mixed)"]}, "precision (mixed)"),
        ({"conditions": ["images (1 skipped)"]}, "images (1 skipped)"),
        ({"metadata": {"source": {"family": "coco2", "variables": "raw"}}}, "variables (raw"),
    ],
)
def test_any_other_run_stands_without_a_verdict(how: dict[str, Any], reason: str, val2017: Val2017) -> None:
    verdict = published(val2017(), **how)
    assert verdict is not None and not verdict.judged and verdict.passed
    assert verdict.reason.startswith("not judged, since not the published: ") and reason in verdict.reason


def test_a_profile_with_other_thresholds_is_not_judged(val2017: Val2017) -> None:
    from effdet_model.nms_profiles import resolve_profile

    verdict = published(val2017(), profile=resolve_profile("numpy_gaussian", {"max_output_size": 10}))
    assert verdict is not None and not verdict.judged and "thresholds of the suppression" in verdict.reason


def test_only_the_whole_of_val2017_is_judged(val2017: Val2017) -> None:
    whole = val2017()
    assert whole.is_published_validation
    swapped = (dataclasses.replace(whole.images[0], id=99_999, path=Path("000000099999.jpg")), *whole.images[1:])
    renamed = (dataclasses.replace(whole.images[0], path=Path("other.jpg")), *whole.images[1:])
    others = {
        "images": whole.first(100),
        "annotations": val2017(annotations=whole.annotations[:-1]),  # type: ignore[index]
        "ids": val2017(images=swapped),
        "names": val2017(images=renamed),
        "categories": val2017(categories={1: "person"}),
    }
    for kind, dataset in others.items():
        assert not dataset.is_published_validation, kind
        verdict = published(dataset)
        assert verdict is not None and not verdict.judged and "dataset (" in verdict.reason, kind
    assert published(val2017(split=None, source=Path("instances.json"))) is None, "a set of one's own"


def test_the_ids_of_val2017_are_not_just_any_5000() -> None:
    from verify.evaluation.coco import VALIDATION_IDS_SHA256, ids_sha256

    assert ids_sha256(range(1, 5001)) != VALIDATION_IDS_SHA256
    assert ids_sha256([3, 1, 2]) == ids_sha256([1, 2, 3]) != ids_sha256([1, 23])


def test_weights_of_ones_own_have_no_published_ap() -> None:
    with pytest.raises(InputError, match="name the family"):
        era_of("d0", {"source": {"family": None}})
    assert era_of("d3", {"source": {"family": "coco"}}).profile == "numpy_gaussian", "scored with soft-NMS"
    assert era_of("d0", None, "advprop").profile == "graph_gaussian_nocut"
