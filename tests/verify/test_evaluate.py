"""Evaluation end to end on images that the tests draw, with a small random model."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo.drawn_images import draw_dataset
from effdet_model.errors import InputError
from tests.verify.evaluation.cases import copied_dataset, run, tiny_weights
from verify.evaluation.metrics import METRIC_NAMES
from verify.evaluation.result import EvaluationResult
from verify.evaluation.run import EvaluateOptions
from verify.evaluation.store import DetectionsStore

RUNNER = Path(__file__).with_name("run_evaluate.py")
IMAGES = 11


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), IMAGES).parent


@pytest.fixture(scope="module")
def options(weights: Path, drawn: Path) -> EvaluateOptions:
    return EvaluateOptions(
        weights=weights, images=drawn / "images", annotations=drawn / "instances.json", batch_size=2
    )


@pytest.fixture(scope="module")
def uninterrupted(options: EvaluateOptions, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationResult, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return run(options, detections=folder / "d.json", metrics=folder / "m.json"), folder


def run_elsewhere(options: EvaluateOptions, folder: Path, *launcher: str) -> subprocess.Popen[bytes]:
    plain = {
        key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(options).items()
    }
    (folder / "options.json").write_text(json.dumps(plain), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, str(RUNNER), str(folder / "options.json")], env=environment, stderr=subprocess.PIPE
    )


def truth_from(detections: Path, drawn: Path, folder: Path, shift: float = 0.0) -> Path:
    """Annotations that say exactly what the best detections say, moved by `shift` of their size."""
    content = json.loads((drawn / "instances.json").read_text(encoding="utf-8"))
    found = json.loads(detections.read_text(encoding="utf-8"))
    limit = sorted((item["score"] for item in found), reverse=True)[40]
    best = [item for item in found if item["score"] >= limit]
    content["annotations"] = [
        {
            "id": number,
            "image_id": item["image_id"],
            "category_id": item["category_id"],
            "bbox": [item["bbox"][0] + shift * item["bbox"][2], *item["bbox"][1:]],
            "area": item["bbox"][2] * item["bbox"][3],
            "iscrowd": 0,
        }
        for number, item in enumerate(best, 1)
    ]
    path = folder / "truth.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_progress_counts_to_the_number_of_images(options: EvaluateOptions, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    run(options, limit=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    assert capfd.readouterr() == ("", ""), "nothing is drawn here"


def test_writes_coco_results_and_the_twelve_metrics(uninterrupted: tuple[EvaluationResult, Path]) -> None:
    result, folder = uninterrupted
    found = json.loads((folder / "d.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "m.json").read_text(encoding="utf-8"))
    assert len(found) == result.detections > 0
    assert set(found[0]) == {"image_id", "category_id", "bbox", "score"}
    assert all(item["score"] > 0 and item["category_id"] in (1, 2, 3) for item in found)
    assert {name: metrics[name] for name in METRIC_NAMES} == dict(result.metrics.values)  # type: ignore[union-attr]
    assert set(metrics["per_class"]) == {"disc", "square", "triangle"}
    assert result.images == IMAGES and result.passed and metrics["nms"]["name"] == "numpy_gaussian"
    assert sorted(path.name for path in folder.iterdir()) == ["d.json", "m.json"], "work files are gone"


def test_boxes_are_original_pixels(uninterrupted: tuple[EvaluationResult, Path], drawn: Path) -> None:
    found = json.loads((uninterrupted[1] / "d.json").read_text(encoding="utf-8"))
    boxes = np.array([item["bbox"] for item in found])
    assert np.median(boxes[:, 2:]) > 20, "of images of 72 to 200 pixels, not of the model's input"
    float32 = boxes.astype(np.float32).astype(np.float64)
    assert (float32 == boxes).all(), "the official file has float32 values"


def test_own_detections_as_truth_give_ap_1_and_moved_ones_do_not(
    options: EvaluateOptions, uninterrupted: tuple[EvaluationResult, Path], drawn: Path, tmp_path: Path
) -> None:
    perfect = run(options, annotations=truth_from(uninterrupted[1] / "d.json", drawn, tmp_path))
    assert perfect.metrics is not None and perfect.metrics.ap == pytest.approx(1.0, abs=1e-9)
    moved = run(options, annotations=truth_from(uninterrupted[1] / "d.json", drawn, tmp_path, shift=0.3))
    assert moved.metrics is not None and moved.metrics.ap < 0.6


def test_killed_at_any_point_and_resumed_gives_identical_detections(
    options: EvaluateOptions, uninterrupted: tuple[EvaluationResult, Path], tmp_path: Path
) -> None:
    mine = dataclasses.replace(options, detections=tmp_path / "d.json")
    process = run_elsewhere(mine, tmp_path)
    work = tmp_path / "d.json.work.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not work.exists() or work.read_bytes().count(b"\n") < 3):
        assert process.poll() is None, "killed too late: it had already ended"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "d.json").exists()
    lines = work.read_bytes().splitlines(keepends=True)
    work.write_bytes(b"".join(lines[:3]) + lines[-1][:40])
    result = run(mine, resume=True)
    assert result.resumed == 4, "two whole batches of two images"
    assert (tmp_path / "d.json").read_bytes() == (uninterrupted[1] / "d.json").read_bytes()


def test_resume_refuses_other_settings_and_needs_no_work_file(
    options: EvaluateOptions, uninterrupted: tuple[EvaluationResult, Path], tmp_path: Path
) -> None:
    mine = dataclasses.replace(options, detections=tmp_path / "d.json", resume=True)
    assert run(mine).resumed == 0
    (tmp_path / "d.json.work.jsonl").write_text(
        json.dumps({"format": DetectionsStore.format, "settings": {"weights_sha256": "0"}}) + "\n"
    )
    with pytest.raises(InputError, match="expected the settings .* weights_sha256 was"):
        run(mine)
    for other in ({"a": 1}, {"format": "effdet-port detections 1", "settings": {}}):
        (tmp_path / "d.json.work.jsonl").write_text(json.dumps(other) + "\n")
        with pytest.raises(InputError, match="expected .* to be a work file"):
            run(mine)
    assert run(mine, resume=False).resumed == 0, "without --resume it starts anew"
    with pytest.raises(InputError, match="--resume: expected --detections"):
        run(options, resume=True)


def test_outputs_do_not_take_the_place_of_inputs(options: EvaluateOptions) -> None:
    """d0.json beside d0.pth says what the weights are."""
    beside = Path(options.weights).with_suffix(".json")
    before = beside.read_bytes()
    for output in ({"detections": beside}, {"metrics": beside}):
        with pytest.raises(InputError, match=r"output .*\.json: expected a file of its own, found the metadata"):
            run(options, **output)
    with pytest.raises(InputError, match="found an input of this run; name another file"):
        run(options, detections=options.annotations)
    assert beside.read_bytes() == before


@pytest.mark.slow
def test_two_processes_give_what_one_gives(
    options: EvaluateOptions, uninterrupted: tuple[EvaluationResult, Path], tmp_path: Path
) -> None:
    mine = dataclasses.replace(options, detections=tmp_path / "d.json", metrics=tmp_path / "m.json")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    process = run_elsewhere(mine, tmp_path, *launcher)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    assert (tmp_path / "d.json").read_bytes() == (uninterrupted[1] / "d.json").read_bytes()
    one, two = (json.loads((folder / "m.json").read_text()) for folder in (uninterrupted[1], tmp_path))
    assert [one[name] for name in METRIC_NAMES] == [two[name] for name in METRIC_NAMES]
    assert two["processes"] == 2 and two["images"] == IMAGES
    assert not list(tmp_path.glob("*.work.jsonl"))


@pytest.fixture
def spoiled(drawn: Path, tmp_path: Path) -> Path:
    return copied_dataset(drawn, tmp_path)


@pytest.mark.parametrize("damage", ["corrupt", "missing", "empty", "zero size"])
def test_bad_images_are_named_or_skipped_with_a_count(damage: str, options: EvaluateOptions, spoiled: Path) -> None:
    image = spoiled / "images" / "000000000004.png"
    if damage == "corrupt":
        image.write_bytes(image.read_bytes()[:300])
    elif damage == "missing":
        image.unlink()
    elif damage == "empty":
        image.write_bytes(b"")
    else:
        content = json.loads((spoiled / "instances.json").read_text())
        content["images"][3]["width"] = 0
        (spoiled / "instances.json").write_text(json.dumps(content))
    mine = dataclasses.replace(options, images=spoiled / "images", annotations=spoiled / "instances.json")
    with pytest.raises(InputError, match=r"000000000004\.png.*--skip-bad-images"):
        run(mine)
    result = run(mine, skip_bad_images=True)
    assert result.images == IMAGES - 1
    assert [skipped.id for skipped in result.skipped] == [4] and "000000000004.png" in result.skipped[0].reason


def test_images_that_are_missing_are_named_before_the_first_is_read(options: EvaluateOptions, spoiled: Path) -> None:
    for name in ("000000000004.png", "000000000007.jpg"):
        (spoiled / "images" / name).unlink()
    (spoiled / "images" / "000000000001.jpg").write_bytes(b"never read")
    with pytest.raises(InputError, match=r"found no file for 2 of them \(the first: id 4, 000000000004\.png\)"):
        run(options, images=spoiled / "images", annotations=spoiled / "instances.json")


def coco(images: str, annotations: str = "") -> str:
    return f'{{"images": [{images}], "annotations": [{annotations}], "categories": []}}'


ONE_IMAGE = '{"id": 1, "file_name": "a"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "found no JSON"),
        ("[]", "found a JSON list"),
        ('{"a": 1}', "found no 'images'"),
        (coco('{"id": "x"}'), "a whole number as id"),
        (coco(""), "at least one image"),
        (coco(f"{ONE_IMAGE}, {ONE_IMAGE}"), "every image id once, found 1 twice"),
        (coco(ONE_IMAGE, '{"image_id": 2, "category_id": 1}'), "an image_id that is in the list of images"),
        (coco(ONE_IMAGE, '{"image_id": 1, "category_id": 1, "bbox": [1]}'), "a bbox"),
    ],
)
def test_an_annotation_file_that_is_not_coco_is_refused(
    content: str, message: str, options: EvaluateOptions, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        run(options, annotations=path)


def test_categories_that_the_weights_do_not_know(options: EvaluateOptions, spoiled: Path) -> None:
    path = spoiled / "instances.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 7, "name": "ring"})
    content["annotations"][0]["category_id"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"expected category ids from 1 to 3.* found 7 \(ring\)"):
        run(options, annotations=path)
    result = run(options, annotations=path, skip_bad_images=True)
    assert any("1 categories that the weights don't know left out, with 1 boxes" in note for note in result.notes)


def test_coco_layout_and_test_split(
    weights: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("val2017", "test2017"):
        (tmp_path / split).symlink_to(drawn / "images")
    content = json.loads((drawn / "instances.json").read_text())
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    del content["annotations"]
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    options = EvaluateOptions(weights=weights, coco=tmp_path, limit=3)
    assert run(options).images == 3
    monkeypatch.chdir(tmp_path)
    result = run(options, split="test-dev2017")
    assert result.metrics is None and result.detections_file == "detections_test-dev2017_d0_results.zip"
    with zipfile.ZipFile(tmp_path / result.detections_file) as archive:
        assert archive.namelist() == ["detections_test-dev2017_d0_results.json"]
        found = json.loads(archive.read(archive.namelist()[0]))
    assert len(found) == result.detections and found[0]["score"] == round(found[0]["score"], 3)
    with pytest.raises(InputError, match="expected .*instances_train2017.json"):
        run(options, split="train2017")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "expected --coco, or --images with --annotations"),
        ({"coco": "."}, "found both"),
        ({"nms": "numpy_gausian"}, "numpy_gaussian"),
        ({"device": "cuda:99"}, "--device"),
        ({"evaluator": "magic"}, "unknown evaluator"),
        ({"batch_size": 0}, "--batch-size"),
        ({"as_published": True}, "name the family"),
        ({"detections": "/nowhere/d.json"}, "/nowhere"),
        ({"limit": 0}, "--limit"),
    ],
)
def test_wrong_options_are_named_before_any_work(
    changes: dict[str, Any], message: str, options: EvaluateOptions
) -> None:
    with pytest.raises(InputError, match=message):
        run(options, **changes)


def test_the_configs_suppression_counts(options: EvaluateOptions) -> None:
    overrides = {"nms_configs": {"method": "hard", "max_output_size": 3}}
    found = run(options, overrides=overrides, limit=2)
    assert (found.nms["name"], found.nms["max_output_size"]) == ("numpy_hard", 3) and found.detections <= 6
    assert run(options, overrides=overrides, nms="graph_hard", limit=1).nms["name"] == "graph_hard"
    with pytest.raises(InputError, match="found graph_gaussian, which is gaussian, and nms_configs.method=hard"):
        run(options, overrides=overrides, nms="graph_gaussian")


def test_as_published_takes_the_familys_anchors_and_suppression(options: EvaluateOptions) -> None:
    old = run(options, as_published=True, family="coco", limit=2)
    assert old.aspect_ratios == ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)) and old.nms["name"] == "numpy_hard"
    assert old.published is None, "this is not val2017"
    assert any("Family coco" in note for note in old.notes)
    assert run(options, limit=2).aspect_ratios == (1.0, 2.0, 0.5)


def test_mixed_precision_and_channels_last_run(options: EvaluateOptions) -> None:
    result = run(options, amp=True, channels_last=True, limit=3)
    assert result.detections > 0 and any("Mixed precision" in note for note in result.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "mode"),
    [("numpy_gaussian", "numpy.gaussian"), ("graph_gaussian", "per_class.gaussian"), ("graph_hard", "per_class.hard")],
)
def test_official_metrics_and_detections_of_a_trained_model(
    profile: str, mode: str, shared: Path, tmp_path: Path, trained: Path
) -> None:
    shapes = shared / "shapes"
    result = run(
        EvaluateOptions(
            weights=trained, images=shapes / "images", annotations=shapes / "instances.json", nms=profile,
            detections=tmp_path / "d.json",
        )
    )  # fmt: skip
    official = json.loads((shapes / "official" / "metrics.json").read_text())[mode]
    assert result.metrics is not None
    assert list(result.metrics.values.values()) == pytest.approx(official, abs=5e-4)
    theirs = json.loads((shapes / "official" / f"{mode}.json").read_text())
    ours = json.loads((tmp_path / "d.json").read_text())
    strong = [item for item in theirs if item["score"] >= 0.05]
    assert sum(is_found(item, ours) for item in strong) >= 0.999 * len(strong)


def is_found(wanted: dict[str, Any], found: list[dict[str, Any]]) -> bool:
    return any(
        item["image_id"] == wanted["image_id"]
        and item["category_id"] == wanted["category_id"]
        and abs(item["score"] - wanted["score"]) <= 1e-3
        and np.abs(np.subtract(item["bbox"], wanted["bbox"])).max() <= 0.1
        for item in found
    )


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from porting.convert import convert

    output = tmp_path_factory.mktemp("shapes") / "shapes.pth"
    convert(shared / "shapes" / "checkpoint" / "model", output, "d0", overrides={"image_size": 128})
    return output
