"""The demo as a newcomer meets it: what it prints and writes, beside what google/automl's own code gave."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from demo import run as demo_run
from demo.resources import ANNOTATIONS, ARCHIVE, IMAGE_SIZE, IMAGES, NMS, official_metrics
from effdet_model.decoding import decode_image
from effdet_model.errors import InputError
from porting.convert import convert
from tests.demo.official import official_detections
from verify.evaluation.run import EvaluateOptions, evaluate
from verify.report.drawing import category_color

BOX_TOLERANCE, SCORE_TOLERANCE = 0.1, 1e-3
METRIC_TOLERANCE = 1e-6
"""Measured: 0.0 for all 12 in all three modes."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint, converted."""
    path = tmp_path_factory.mktemp("demo") / "d0.pth"
    convert(ARCHIVE, path, "d0", overrides={"image_size": IMAGE_SIZE})
    return path


@pytest.fixture(scope="module")
def demo(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `demo` prints, and its folder."""
    output = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, str(repository / "cli.py"), "demo", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=output.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, output


@pytest.mark.slow
def test_both_frameworks_detect_what_the_official_code_detects(demo: tuple[str, Path]) -> None:
    printed, output = demo
    assert printed.count("PASSED") == 3 and "mapped: depthwise" in printed and "python cli.py convert" in printed
    layers = json.loads((output / "diff" / "diff.json").read_text())
    assert layers["passed"] and layers["first_divergent_layer"] is None and layers["max_rel"] <= 1e-9
    assert len(layers["layers"]) == 86
    found = json.loads((output / "parity" / "parity.json").read_text())
    official = official_metrics("numpy_gaussian")
    assert found["passed"] and found["nms"]["name"] == "numpy_gaussian"
    for framework in ("tensorflow", "pytorch"):
        assert found[framework]["AP"] > 0.5
        values = {name: found[framework][name] for name in official}
        assert values == pytest.approx(official, abs=METRIC_TOLERANCE)
    assert f"AP               {official['AP']:.4f}           {official['AP']:.4f}   {official['AP']:.4f}" in printed


@pytest.mark.slow
def test_it_prints_where_its_pages_and_pictures_lie(demo: tuple[str, Path]) -> None:
    printed, output = demo
    lines = [line.strip() for line in printed.splitlines()]
    for page in (output / "diff" / "diff.html", output / "parity" / "parity.html"):
        assert str(page) in lines and page.stat().st_size > 10_000
    assert "disc" in (output / "parity" / "parity.html").read_text()
    assert f"{output / 'pictures'}: all 12" in lines
    assert {path.name for path in (output / "pictures").iterdir()} == {path.name for path in IMAGES.iterdir()}


def test_every_picture_shows_its_best_box(weights: Path, tmp_path: Path) -> None:
    names = {image["id"]: image["file_name"] for image in json.loads(ANNOTATIONS.read_text())["images"]}
    demo_run.draw_pictures(weights, tmp_path)
    for image_id, name in names.items():
        with Image.open(tmp_path / name) as picture:
            drawn = np.asarray(picture.convert("RGB"))
        before = decode_image(IMAGES / name)
        factor = drawn.shape[0] // before.shape[0]
        assert max(drawn.shape) >= demo_run.DRAWN_SIDE and factor * before.shape[1] == drawn.shape[1]
        best = max((one for one in official_detections("numpy_gaussian") if one["image_id"] == image_id),
                   key=lambda one: one["score"])  # fmt: skip
        assert best["score"] >= demo_run.DRAWN_SCORE
        color = np.array(category_color(best["category_id"]))
        assert on_outline(drawn, best["bbox"], factor, color) > 0.7, name
        plain = before.repeat(factor, axis=0).repeat(factor, axis=1)
        assert on_outline(plain, best["bbox"], factor, color) < 0.3, name


def on_outline(pixels: np.ndarray, box_xywh: list[float], factor: int, color: np.ndarray) -> float:
    """Share of the pixels on a box's border that have a colour, as well as JPEG keeps it."""
    x, y, width, height = (value * factor for value in box_xywh)
    rows, columns = pixels.shape[:2]
    left, right = (int(np.clip(round(value), 0, columns - 1)) for value in (x, x + width - 1))
    top, bottom = (int(np.clip(round(value), 0, rows - 1)) for value in (y, y + height - 1))
    border = np.concatenate(
        (pixels[top, left:right], pixels[bottom, left:right], pixels[top:bottom, left], pixels[top:bottom, right])
    )
    return float((np.abs(border.astype(int) - color).max(axis=1) <= 60).mean())


@pytest.mark.parametrize("profile", NMS)
def test_every_official_detection_and_metric_comes_out_of_the_port(
    profile: str, weights: Path, tmp_path: Path
) -> None:
    result = evaluate(
        EvaluateOptions(
            weights=weights, images=IMAGES, annotations=ANNOTATIONS, nms=profile, detections=tmp_path / "found.json",
            workers=0, progress=False,
        )
    )  # fmt: skip
    assert result is not None and result.metrics is not None and result.metrics.ap > 0.5
    assert dict(result.metrics.values) == pytest.approx(official_metrics(profile), abs=METRIC_TOLERANCE)
    found = json.loads((tmp_path / "found.json").read_text())
    official = official_detections(profile)
    assert len(found) == len(official) == 1200
    for wanted in official:
        partner = next((one for one in found if is_same(wanted, one)), None)
        assert partner is not None, f"not found: {wanted}"
        found.remove(partner)


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (
        all(one[name] == other[name] for name in ("image_id", "category_id"))
        and abs(one["score"] - other["score"]) <= SCORE_TOLERANCE
        and all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(corners(one), corners(other), strict=True))
    )


def corners(found: dict[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = found["bbox"]
    return x, y, x + width, y + height


def test_numbers_that_are_not_the_official_ones_fail() -> None:
    official = official_metrics("numpy_gaussian")
    console = Console(file=io.StringIO())

    def passes(tensorflow: dict[str, float], pytorch: dict[str, float]) -> bool:
        result: Any = SimpleNamespace(
            tensorflow_metrics=SimpleNamespace(values=tensorflow), pytorch_metrics=SimpleNamespace(values=pytorch)
        )
        return demo_run._print_metrics(result, console)

    assert passes(official, official)
    for name in official:
        wrong = {**official, name: official[name] + 0.002}
        assert not passes(wrong, official) and not passes(official, wrong), name


def test_an_installation_without_the_data_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_run, "ARCHIVE", tmp_path / "efficientdet-d0.tar.gz")
    with pytest.raises(InputError, match="expected its checkpoint at .*efficientdet-d0.tar.gz, found none; install"):
        demo_run.run_demo(tmp_path / "demo", Console())
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(InputError, match="expected a folder that can be made, found: "):
        demo_run.run_demo(tmp_path / "demo", Console())
