"""What the demo ships is what its documentation says."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from demo.resources import ANNOTATIONS, ARCHIVE, DATA, IMAGES, NMS, OFFICIAL, category_names
from porting.checkpoint.sources import open_source
from porting.inspect.run import inspect_file
from tests.data.make_demo_checkpoint import averages, rounded_to_bfloat16
from tests.demo.official import official_detections


def test_the_checkpoint_has_the_official_layout_and_the_moving_averages_alone() -> None:
    with tarfile.open(ARCHIVE) as archive:
        names = sorted(archive.getnames())
    assert names == [
        f"efficientdet-d0/{name}" for name in ("checkpoint", "model.data-00000-of-00001", "model.index")
    ]
    assert ARCHIVE.stat().st_size < 7_000_000
    found = inspect_file(ARCHIVE)
    assert found.usable and found.variant == "d0" and found.heads is not None and found.heads.num_classes == 90
    with open_source(ARCHIVE) as source:
        assert len(source.variables) == 709
        assert not any(variable.has_raw for variable in source.variables.values())
        values = {name: source.read(name, "ema") for name in source.variables}
    assert sum(value.size for name, value in values.items() if "/moving_" not in name) == 3_880_067
    for name, value in values.items():
        assert not (value.view(np.uint32) & 0xFFFF).any(), f"{name}: bfloat16 holds every value"


def test_its_values_are_the_rounded_averages_of_the_trained_checkpoint(shared: Path) -> None:
    with open_source(ARCHIVE) as mine, open_source(shared / "shapes" / "checkpoint") as trained:
        assert set(mine.variables) == set(trained.variables)
        for name in trained.variables:
            theirs = torch.from_numpy(np.array(trained.read(name, "ema")))
            np.testing.assert_array_equal(
                mine.read(name, "ema"), theirs.to(torch.bfloat16).float().numpy(), err_msg=name, strict=True
            )
        assert next(averages(trained))[0] == "global_step"


def test_its_pictures_are_those_of_the_whole_set(shared: Path) -> None:
    whole = json.loads((shared / "shapes" / "instances.json").read_text())
    mine = json.loads(ANNOTATIONS.read_text())
    assert mine["images"] == sorted(whole["images"], key=lambda image: image["file_name"])[::5]
    ids = {image["id"] for image in mine["images"]}
    assert mine["annotations"] == [one for one in whole["annotations"] if one["image_id"] in ids]
    for path in IMAGES.iterdir():
        assert path.read_bytes() == (shared / "shapes" / "images" / path.name).read_bytes()


def test_rounding_is_to_the_nearest_and_ties_to_even() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate((random.normal(0, 1, 10_000), [0.0, -0.0, 1.00390625, 1.01171875, 3e38, 1e-40]))
    values = values.astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(rounded_to_bfloat16(values).view(np.uint32), expected.view(np.uint32))
    assert rounded_to_bfloat16(np.float32(1.1)).shape == ()


def test_the_pictures_hold_every_category_and_both_formats() -> None:
    content = json.loads(ANNOTATIONS.read_text())
    assert {image["file_name"] for image in content["images"]} == {path.name for path in IMAGES.iterdir()}
    assert Counter(path.suffix for path in IMAGES.iterdir()) == {".png": 9, ".jpg": 3}
    assert {one["category_id"] for one in content["annotations"]} == set(category_names()) == {1, 3, 13, 44, 62, 90}
    assert set(category_names().values()) == {"disc", "square", "triangle", "ring", "star", "cross"}


def test_the_official_results_are_of_these_pictures() -> None:
    ids = {image["id"] for image in json.loads(ANNOTATIONS.read_text())["images"]}
    assert {path.stem for path in OFFICIAL.iterdir()} == {*NMS.values(), "metrics"}
    for profile in NMS:
        assert {found["image_id"] for found in official_detections(profile)} == ids


def test_only_the_checkpoint_is_large() -> None:
    large = [path.name for path in DATA.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    assert large == [ARCHIVE.name]
