"""Exported files of the demo's trained checkpoint: proved, and run by their runtime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from demo.resources import ANNOTATIONS, ARCHIVE, IMAGE_SIZE, IMAGES, official_metrics
from effdet_model.decoding import decode_image
from effdet_model.errors import InputError
from effdet_model.factory import create_model
from effdet_model.preprocessing import preprocess
from export import proof as proof_module
from export.options import ExportOptions, check_options, parse_batch
from export.run import UNPROVED, export, export_model
from export.runtimes import load_file
from porting.convert import convert
from tests.demo.official import official_detections
from verify.evaluation.coco import load_annotated
from verify.evaluation.metrics import METRIC_NAMES, coco_metrics
from verify.parity.matching import match

HPARAMS = f"image_size={IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "d0.pth"
    convert(ARCHIVE, path, "d0", overrides={"image_size": IMAGE_SIZE})
    return path


@pytest.fixture(scope="module")
def onnx_file(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("onnx") / "d0.onnx"
    made = export(
        ExportOptions(
            weights, output, nms="numpy_gaussian", batch=None, checkpoint=ARCHIVE, hparams=HPARAMS
        )
    )
    assert made.passed and made.files == (output,), made.record["verdict"]
    assert "TensorFlow in float64" in made.record["reference"]
    return output


def found_by_onnxruntime(path: Path, images: Path, annotations: Path) -> list[dict[str, Any]]:
    """COCO results of a folder, with nothing but onnxruntime behind the model's input."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["effdet_port"])
    config = create_model("d0", **{k: metadata["config"][k] for k in ("image_size", "mean_rgb", "stddev_rgb")}).config
    results = []
    for image in json.loads(annotations.read_text())["images"]:
        array, scale = preprocess(decode_image(images / image["file_name"]), config)
        number, boxes, scores, classes = session.run(None, {"images": array.numpy()[None]})
        for (x0, y0, x1, y1), score, category in zip(
            (boxes[0] * np.float32(scale)).tolist()[: number[0]], scores[0].tolist(), classes[0].tolist(), strict=False
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": score})
    return results


def rows_by_image(results: list[dict[str, Any]]) -> dict[int, np.ndarray]:
    rows = defaultdict(list)
    for item in results:
        rows[item["image_id"]].append([*item["bbox"], item["score"], item["category_id"]])
    return {image: np.array(found, np.float32) for image, found in rows.items()}


def check_against_official(
    path: Path, images: Path, annotations: Path, official: list[dict[str, Any]], metrics: dict[str, float]
) -> None:
    results = found_by_onnxruntime(path, images, annotations)
    mine, theirs = rows_by_image(results), rows_by_image(official)
    assert mine.keys() == theirs.keys()
    for image, rows in theirs.items():
        allowed = np.broadcast_to([0.1, 1e-3], (len(rows), 2))
        assert len(match(rows, mine[image], allowed)) == len(rows) == len(mine[image]), image
    found = coco_metrics(load_annotated(images, annotations), results).values
    assert {name: found[name] for name in metrics} == pytest.approx(metrics, abs=0.0005)


@pytest.mark.slow
def test_onnxruntime_alone_gives_the_official_detections(onnx_file: Path) -> None:
    check_against_official(
        onnx_file, IMAGES, ANNOTATIONS, official_detections("numpy_gaussian"), official_metrics("numpy_gaussian")
    )


@pytest.mark.slow
def test_it_says_what_it_is_and_what_proved_it(onnx_file: Path, weights: Path) -> None:
    metadata = json.loads(
        onnxruntime.InferenceSession(str(onnx_file)).get_modelmeta().custom_metadata_map["effdet_port"]
    )
    of_weights = json.loads(weights.with_suffix(".json").read_text())
    assert metadata["weights_sha256"] == of_weights["weights_sha256"]
    assert metadata["source"]["sha256"] == of_weights["source"]["sha256"]
    assert metadata["suppression"]["name"] == "numpy_gaussian" and metadata["labels"]["1"] == "person"
    record = json.loads(onnx_file.with_name("d0.onnx.proof.json").read_text())
    assert record["passed"] and record["evidence"]["checkpoint_sha256"] == metadata["source"]["sha256"]
    assert {check["name"] for check in record["checks"]} >= {
        "levels of drawn pictures, batch 1", "levels of noise, batch 3", "detections of noise, batch 3",
        "made-up levels, the second image empty, batch 3",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "ending", "more"),
    [
        ("openvino", ".xml", {"nms": "graph_gaussian", "batch": 2, "kind": "uint8"}),
        ("torch", ".pt2", {"batch": None}),
        ("torchscript", ".pt", {"batch": None, "kind": "uint8"}),
        ("onnx", ".onnx", {"nms": "tensorrt"}),
    ],
)
def test_other_formats_sizes_and_classes(form: str, ending: str, more: dict[str, Any], tmp_path: Path) -> None:
    """256 x 192, 7 classes, against PyTorch in float64."""
    torch.manual_seed(0)
    model = create_model("d0", image_size=(256, 192), num_classes=7)
    weights = tmp_path / "d0.pth"
    torch.save(model.state_dict(), weights)
    output = tmp_path / f"model{ending}"
    made = export_model(model, ExportOptions(weights, output, format=form, **more))
    assert made.passed and output.is_file(), made.record["verdict"]
    assert made.record["image_size"] == [256, 192] and "PyTorch in float64" in made.record["reference"]
    assert made.record["detections_not_run"] == (more.get("nms") == "tensorrt")
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob(f"*{UNPROVED}"))


@pytest.mark.slow
def test_half_precision_of_trained_weights(weights: Path, tmp_path: Path) -> None:
    """Weights that nobody trained leave nothing of a float16 to judge."""
    output = tmp_path / "half.onnx"
    made = export(ExportOptions(weights, output, nms="graph_hard", half=True))
    assert made.passed, made.record["verdict"]
    assert "float16" in made.record["reference"] and output.stat().st_size < 0.6 * weights.stat().st_size


@pytest.mark.slow
def test_a_file_that_gives_something_else_does_not_get_its_name(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(path: Any, form: str, config: Any, threads: int | None = None) -> Any:
        run = load_file(path, form, config, threads)
        return lambda **inputs: {name: level * np.float32(1.0001) for name, level in run(**inputs).items()}

    monkeypatch.setattr(proof_module, "load_file", faulty)
    output = tmp_path / "d0.pt"
    made = export(ExportOptions(weights, output, format="torchscript"))
    assert not made.passed and not output.exists() and made.files == (tmp_path / f"d0.pt{UNPROVED}",)
    assert made.record["verdict"].startswith("Not proved: levels of drawn pictures, batch 1")


def test_another_checkpoint_and_another_configuration_are_seen(weights: Path) -> None:
    """The reference takes its configuration from the user's words, not from the weights'."""
    from export.truth import opened_truth

    model = create_model(weights=weights, image_size=(64, 64), aspect_ratios=(1.0, 1.5, 0.7))
    with opened_truth(model, ARCHIVE, False, HPARAMS) as truth:
        assert any("aspect_ratios" in problem for problem in truth.problems)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "unknown export format: 'tflite'"),
        ({"output": "x.pt2"}, "expected a name that ends in .onnx for --format onnx, found .pt2"),
        ({"nms": "numpy_gausian"}, "Did you mean numpy_gaussian"),
        ({"format": "torch", "output": "x.pt2", "nms": "graph_hard"}, "expected --nms none for --format torch"),
        ({"format": "openvino", "output": "x.xml", "nms": "tensorrt"}, "expected --format onnx without --half"),
        ({"format": "torchscript", "weights": "x.pt", "output": "x.pt"}, "expected another file than the weights"),
        ({"output": "x.onnx", "weights": "x.onnx.proof.pth"}, "expected another file than the weights"),
    ],
)
def test_wrong_use_is_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    given = {"weights": "w.pth", "output": "x.onnx", **options}
    paths = {key: Path(given.pop(key)) for key in ("weights", "output")}
    with pytest.raises(InputError) as told:
        check_options(ExportOptions(**paths, **given))
    assert message in str(told.value) and len(str(told.value)) < 600


def test_batch_text() -> None:
    assert parse_batch("dynamic") is None and parse_batch("8") == 8
    for text in ("0", "-1", "many", "9" * 400, "1.5"):
        with pytest.raises(InputError, match="expected dynamic or a number from 1 to 4096"):
            parse_batch(text)


@pytest.mark.slow
def test_the_whole_set_of_pictures(shared: Path, tmp_path: Path) -> None:
    """60 pictures, with the trained checkpoint as it is."""
    place = shared / "shapes"
    weights, output = tmp_path / "d0.pth", tmp_path / "d0.onnx"
    convert(place / "checkpoint", weights, "d0", overrides={"image_size": IMAGE_SIZE})
    assert export(ExportOptions(weights, output, nms="numpy_gaussian")).passed
    official = json.loads((place / "official" / "numpy.gaussian.json").read_text())
    values = json.loads((place / "official" / "metrics.json").read_text())["numpy.gaussian"]
    metrics = dict(zip(METRIC_NAMES, values, strict=True))
    check_against_official(output, place / "images", place / "instances.json", official, metrics)


@pytest.mark.slow
def test_a_process_that_ran_openvino_lives_on(tmp_path: Path) -> None:
    """Its CPU plugin leaves a stack for signals behind that must outlive it: children's ends are signals."""
    images, levels = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "levels"))
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["levels"])], "tiny", [images], [levels])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "a.onnx")
    script = (
        "import signal, subprocess, sys, threading\n"
        "from pathlib import Path\n"
        "from export.runtimes import load_file\n"
        "runs = [load_file(Path(sys.argv[1]), 'openvino', None, 1)]\n"
        "other = threading.Thread(target=runs.clear)\n"
        "other.start()\n"
        "other.join()\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "subprocess.run([sys.executable, '-c', ''], check=True)\n"
        "print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.onnx")], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
