"""Augmentation against google/automl's own code (official_augmentation.npz) and against effdet's, as installed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.augmentation_cases import CENTER, GEOMETRY, OPERATIONS, boxes, picture
from tests.training.data_cases import small_config
from training.augmentation import colors, effdet, google, warps
from training.augmentation.scene import Scene

STEP = 5
OPERATION_SIZE = (19, 26)
IMAGENET = {"mean_rgb": (0.485 * 255, 0.456 * 255, 0.406 * 255), "stddev_rgb": (0.229 * 255, 0.224 * 255, 0.225 * 255)}


@pytest.fixture(scope="module")
def official() -> Iterator[Any]:
    with np.load(Path(__file__).parent / "data" / "official_augmentation.npz") as stored:
        yield dict(stored)


def scene(size: tuple[int, int]) -> Scene:
    rows = boxes(size)
    return Scene(picture(size), rows, np.arange(1, len(rows) + 1))


@pytest.mark.parametrize("name", GEOMETRY)
def test_flip_scale_and_crop_are_googles_bit_by_bit(official: Any, name: str) -> None:
    case = GEOMETRY[name]
    config = small_config(case.image_size, **IMAGENET)
    if case.factor is None:
        placement = google.plain_placement(case.size, case.image_size)
    else:
        placement = google.random_placement(case.size, case.image_size, case.factor, case.shift_y, case.shift_x)
    found = google.place(scene(case.size), config, case.flip, placement)
    np.testing.assert_array_equal(found.image.reshape(-1)[::STEP], official[f"{name}|image"])
    np.testing.assert_array_equal(found.boxes, official[f"{name}|boxes"])
    np.testing.assert_array_equal(found.classes, official[f"{name}|classes"])


def test_the_cases_of_google_lose_boxes_and_shift_pictures(official: Any) -> None:
    kept = [len(official[f"{name}|boxes"]) for name in GEOMETRY]
    assert min(kept) < 10 and max(kept) == 10, "no case leaves boxes out, or all do"
    shifts = [
        google.random_placement(case.size, case.image_size, case.factor, case.shift_y, case.shift_x).offset
        for case in GEOMETRY.values()
        if case.factor is not None
    ]
    assert any(y for y, _ in shifts) and any(x for _, x in shifts)


def change(name: str, pixels: np.ndarray, numbers: tuple[Any, ...]) -> np.ndarray:
    if name == "cutout":
        return colors.cutout(pixels, *numbers, *numbers, *CENTER)
    moves: dict[str, Callable[[float], np.ndarray]] = {
        "rotate": lambda amount: warps.rotate(pixels, amount),
        "shear_x": lambda amount: warps.shear_x(pixels, amount),
        "shear_y": lambda amount: warps.shear_y(pixels, amount),
        "translate_x": lambda amount: warps.translate(pixels, amount, 0),
        "translate_y": lambda amount: warps.translate(pixels, 0, amount),
    }
    return moves[name](*numbers) if name in moves else getattr(colors, name)(pixels, *numbers)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_autoaugment_are_googles(official: Any, name: str) -> None:
    pixels = picture(OPERATION_SIZE, 3)
    found = change(name.split()[0], pixels, OPERATIONS[name])
    expected = official[f"{name}|image"]
    assert found.dtype == expected.dtype == np.uint8 and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.split()[0][:3] in ("rot", "she", "tra")])
def test_boxes_move_as_googles(official: Any, name: str) -> None:
    size, kind, (amount,) = OPERATION_SIZE, name.split()[0], OPERATIONS[name]
    rows = boxes(size, 3) / np.float32([*size, *size])
    moved = {
        "rotate": lambda: warps.rotate_boxes(rows, size, amount),
        "shear_x": lambda: warps.shear_boxes(rows, size, amount, 0),
        "shear_y": lambda: warps.shear_boxes(rows, size, 0, amount),
        "translate_x": lambda: warps.translate_boxes(rows, size, amount, 0),
        "translate_y": lambda: warps.translate_boxes(rows, size, 0, amount),
    }[kind]()
    np.testing.assert_array_equal(moved, official[f"{name}|boxes"])


@pytest.mark.parametrize("seed", range(8))
def test_flip_resize_and_pad_are_effdets_bit_by_bit(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    transforms = pytest.importorskip("effdet.data.transforms")
    size, image_size = ((37, 53), (40, 40)) if seed % 2 else ((61, 23), (32, 48))
    draws = np.random.RandomState(seed).uniform(0, 1, 4)
    factor, interpolation = 0.1 + 1.9 * draws[1], effdet.INTERPOLATIONS[seed // 2 % 2]
    uniform = iter([factor, draws[2], draws[3]])
    monkeypatch.setattr(random, "random", lambda: draws[0])
    monkeypatch.setattr(random, "uniform", lambda *_: next(uniform))
    monkeypatch.setattr(random, "choice", lambda _: interpolation)
    given = scene(size)
    annotations = {"bbox": given.boxes.copy(), "cls": given.classes.copy()}
    image = Image.fromarray(given.pixels)
    fill = transforms.resolve_fill_color("mean")
    for step in (transforms.RandomFlip(), transforms.RandomResizePad(image_size, (0.1, 2.0), fill_color=fill)):
        image, annotations = step(image, annotations)

    config = small_config(image_size, mean_rgb=0.0, stddev_rgb=1.0)
    resize = effdet.random_resize(size, image_size, factor, draws[2], draws[3])
    found = effdet.place(given, config, draws[0] < 0.5, resize, interpolation, fill)
    np.testing.assert_array_equal(found.image.transpose(1, 2, 0), np.asarray(image, np.float32))
    np.testing.assert_array_equal(found.boxes, annotations["bbox"])
    np.testing.assert_array_equal(found.classes, annotations["cls"])
