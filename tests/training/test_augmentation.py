"""What each setting of augmentation does, by itself and in the pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.training.augmentation_cases import boxes, picture
from tests.training.data_cases import small_config
from training.augmentation.autoaugment import apply_operation, apply_policy, apply_randaug
from training.augmentation.color_jitter import color_jitter
from training.augmentation.erasing import grid_mask, random_erase
from training.augmentation.mosaic import mosaic
from training.augmentation.pipeline import augment, fill_color
from training.augmentation.policies import POLICIES, RANDAUG
from training.augmentation.scene import Prepared, Scene
from training.augmentation.settings import AugmentationSettings

SIZE = (48, 60)
PLAIN = AugmentationSettings.none()


def scene(size: tuple[int, int] = SIZE, seed: int = 0) -> Scene:
    rows = boxes(size, seed)
    return Scene(picture(size, seed), rows, np.arange(1, len(rows) + 1))


def prepared(settings: AugmentationSettings, seed: int = 0, **config: Any) -> Prepared:
    chance = np.random.default_rng(seed)
    return augment(scene(), small_config(40, **config), settings, chance, lambda number: scene(seed=number % 5))


def marked(size: tuple[int, int], box: tuple[int, int, int, int]) -> Scene:
    """A dark picture with one bright box."""
    pixels = np.full((*size, 3), 10, np.uint8)
    pixels[box[0] : box[2], box[1] : box[3]] = 250
    return Scene(pixels, np.array([box], np.float32), np.array([1]))


def bright(pixels: np.ndarray) -> list[int]:
    """(y0, x0, y1, x1) around the bright pixels."""
    rows, columns = np.nonzero(pixels.min(axis=2) > 200)
    return [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


@pytest.mark.parametrize(
    "change",
    (
        {"hflip": 1.0}, {"jitter_min": 0.5, "jitter_max": 0.6}, {"autoaugment_policy": "v0"},
        {"autoaugment_policy": "randaug"}, {"gridmask": 1.0}, {"mosaic": 1.0}, {"random_erase": 1.0},
        {"color_jitter": 0.5}, {"fill_color": 0},
    ),
    ids=lambda change: next(iter(change)),
)  # fmt: skip
@pytest.mark.parametrize("style", ("google", "effdet"))
def test_each_setting_changes_the_input_and_its_seed_decides(style: str, change: dict[str, Any]) -> None:
    settings = PLAIN.replace(style=style, **change)
    plain = prepared(PLAIN.replace(style=style))
    found = [prepared(settings, seed).image for seed in range(5)]
    assert any(not np.array_equal(image, plain.image) for image in found)
    np.testing.assert_array_equal(found[2], prepared(settings, 2).image)
    assert all(image.shape == (3, 40, 40) and image.dtype == np.float32 for image in found)


@pytest.mark.parametrize("policy", POLICIES)
def test_all_of_a_policy_runs_with_and_without_boxes(policy: str) -> None:
    names = {step.name for steps in POLICIES[policy] for step in steps}
    assert len(names) > 1 and all(0 <= step.probability <= 1 for steps in POLICIES[policy] for step in steps)
    fractions = (boxes(SIZE) / np.float32([*SIZE, *SIZE])).astype(np.float32)
    for rows in (fractions, fractions[:0]):
        for seed in range(3 * len(POLICIES[policy])):
            pixels, moved = apply_policy(picture(SIZE), rows, policy, np.random.default_rng(seed))
            assert pixels.shape == (*SIZE, 3) and pixels.dtype == np.uint8
            assert moved.shape == rows.shape and moved.dtype == np.float32 and ((moved >= 0) & (moved <= 1)).all()


def test_policies_are_as_long_as_googles() -> None:
    lengths = {name: len(policy) for name, policy in POLICIES.items()}
    assert lengths == {"v0": 5, "v1": 20, "v2": 15, "v3": 15, "test": 1}
    assert POLICIES["v1"][:5] == POLICIES["v0"]


@pytest.mark.parametrize("name", RANDAUG)
def test_randaug_can_do_everything_at_its_magnitude(name: str) -> None:
    rows = (boxes(SIZE) / np.float32([*SIZE, *SIZE])).astype(np.float32)
    pixels, moved = apply_operation(picture(SIZE), rows, name, 15.0, np.random.default_rng(1))
    assert pixels.shape == (*SIZE, 3) and moved.shape == rows.shape
    layers = [apply_randaug(picture(SIZE), rows, count, 15.0, np.random.default_rng(4))[0] for count in (1, 3)]
    assert not np.array_equal(*layers)


@pytest.mark.parametrize("name", ("Rotate_BBox", "ShearX_BBox", "ShearY_BBox", "TranslateX_BBox", "TranslateY_BBox"))
@pytest.mark.parametrize("seed", range(4))
def test_boxes_follow_what_they_hold(name: str, seed: int) -> None:
    size = (100, 140)
    given = marked(size, (40, 60, 60, 84))
    fractions = given.boxes / np.float32([*size, *size])
    pixels, moved = apply_operation(given.pixels, fractions, name, 1.5, np.random.default_rng(seed))
    found = moved[0] * np.float32([*size, *size])
    np.testing.assert_allclose(found, bright(pixels), atol=3)
    assert np.abs(found - given.boxes[0]).max() > 1 or name == "Rotate_BBox"


def test_operations_in_boxes_leave_the_rest_alone() -> None:
    size = (40, 40)
    rows = np.array([[0.25, 0.25, 0.5, 0.75]], np.float32)
    pixels = picture(size)
    changed = 0
    for seed in range(40):
        found, moved = apply_policy(pixels, rows, "v1", np.random.default_rng(seed))
        differs = (found != pixels).any(axis=2)
        inside = np.zeros(size, bool)
        inside[10:21, 10:31] = True
        changed += bool(differs.any()) and not (differs & ~inside).any() and np.array_equal(moved, rows)
    assert changed, "no operation on boxes alone was seen"


@pytest.mark.parametrize("style", ("google", "effdet"))
@pytest.mark.parametrize("seed", range(6))
def test_flip_scale_and_crop_keep_boxes_on_what_they_hold(style: str, seed: int) -> None:
    settings = AugmentationSettings(style=style, jitter_min=0.7, jitter_max=1.8)
    config = small_config(80, mean_rgb=0.0, stddev_rgb=1.0)
    found = augment(marked((100, 140), (40, 60, 60, 84)), config, settings, np.random.default_rng(seed))
    assert found.image.shape == (3, 80, 80)
    if len(found.boxes):
        np.testing.assert_allclose(found.boxes[0], bright(found.image.transpose(1, 2, 0)), atol=2.5)


def test_a_mosaic_has_four_pictures_and_their_boxes() -> None:
    parts = [marked((40 + 10 * number, 50), (10, 20, 30, 40)) for number in range(4)]
    for seed in range(4):
        found = mosaic(parts, (80, 100), np.random.default_rng(seed))
        assert found.pixels.shape == (80, 100, 3) and len(found.boxes) == len(found.classes) == 4
        for y0, x0, y1, x1 in found.boxes:
            assert found.pixels[int(y0 + y1) // 2, int(x0 + x1) // 2].min() > 200
            assert 0 <= y0 < y1 <= 80 and 0 <= x0 < x1 <= 100


@pytest.mark.parametrize("size", ((2, 2), (5, 90), (64, 48)))
def test_a_grid_mask_blackens_a_part(size: tuple[int, int]) -> None:
    white = np.full((*size, 3), 255, np.uint8)
    shares = [grid_mask(white, np.random.default_rng(seed)).mean() / 255 for seed in range(20)]
    assert all(0 <= share <= 1 for share in shares)
    assert size == (2, 2) or 0.5 < np.mean(shares) < 0.95


@pytest.mark.parametrize("mode", ("const", "rand", "pixel"))
def test_erasing_stays_in_the_picture(mode: str) -> None:
    given = Prepared(np.full((3, 40, 40), 9, np.float32), boxes(SIZE), np.arange(10), (30, 20))
    for seed in range(10):
        found = random_erase(given, 3, mode, np.random.default_rng(seed))
        erased = (found.image != 9).any(axis=0)
        assert 0.02 * 0.8 < erased.sum() / 600 < 0.6 and not erased[30:].any() and not erased[:, 20:].any()
    assert (given.image == 9).all(), "the given image was changed"


def test_colour_changes_colours_alone() -> None:
    pixels = picture(SIZE)
    found = color_jitter(pixels, 0.5, np.random.default_rng(3))
    assert found.shape == pixels.shape and found.dtype == np.uint8 and not np.array_equal(found, pixels)
    same = color_jitter(pixels, 0.0, np.random.default_rng(3)).astype(int)
    assert np.abs(same - pixels).max() <= 8, "hue goes through 8 bits of HSV, and nothing else may change"


def test_small_and_many_boxes_are_left_out_where_asked() -> None:
    all_boxes = prepared(PLAIN)
    sides = (all_boxes.boxes[:, 2:] - all_boxes.boxes[:, :2]).min(axis=1)
    assert (sides < 4).any(), "no small box to leave out"
    assert len(prepared(PLAIN.replace(min_box_side=4.0)).boxes) == (sides >= 4).sum()
    few = prepared(PLAIN.replace(max_instances=3))
    np.testing.assert_array_equal(few.boxes, all_boxes.boxes[:3])


@pytest.mark.parametrize("style", ("google", "effdet"))
def test_the_fill_colour_is_beyond_the_picture(style: str) -> None:
    for color, expected in (("mean", (123, 116, 103)), (7, (7, 7, 7)), ((1, 2, 3), (1, 2, 3))):
        config = small_config(40, mean_rgb=(0.485 * 255, 0.456 * 255, 0.406 * 255), stddev_rgb=1.0)
        settings = PLAIN.replace(style=style, fill_color=color)
        assert fill_color(config, settings) == tuple(round(each) for each in expected) or color == "mean"
        found = augment(scene(), config, settings, np.random.default_rng(0))
        assert found.content == (32, 40)
        corner = found.image[:, -1, -1] + np.array(config.mean_rgb, np.float32)
        np.testing.assert_allclose(corner, expected, atol=1.0)
        assert np.ptp(found.image[:, 32:], axis=(1, 2)).max() == 0
