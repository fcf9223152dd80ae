"""Drawn boxes lie where they should, labels stay within the image and apart."""

from __future__ import annotations

import itertools

import numpy as np

from effdet_model import Detections
from verify.report.drawing import category_color, draw_boxes, draw_detections

GREY = 128
RED = (220, 20, 20)


def ground(height=120, width=200):
    return np.full((height, width, 3), GREY, np.uint8)


def test_a_box_covers_the_pixels_at_its_border():
    pixels = ground()
    drawn = np.asarray(draw_boxes(pixels, np.array([[30.2, 40.4, 90.3, 100.0]]), [""], [RED]))
    red = np.argwhere((drawn == RED).all(axis=2))
    assert red.min(axis=0).tolist() == [40, 30] and red.max(axis=0).tolist() == [99, 89]
    assert (drawn[50:90, 40:80] == GREY).all()
    assert (pixels == GREY).all()


def test_boxes_beyond_the_image_are_drawn_at_its_border():
    boxes = np.array([[-50.0, -20.0, 900.0, 300.0], [300.0, 300.0, 200.0, 100.0], [np.nan, 0.0, 5.0, 5.0]])
    drawn = np.asarray(draw_boxes(ground(), boxes, ["a", "", "never"], [RED] * 3))
    assert (drawn[60, 0] == RED).all() and (drawn[60, -1] == RED).all() and (drawn[-1, 100] == RED).all()
    only_finite = np.asarray(draw_boxes(ground(), boxes[:2], ["a", ""], [RED] * 2))
    np.testing.assert_array_equal(drawn, only_finite)


def test_the_higher_score_lies_on_top():
    boxes = np.float32([[20, 20, 80, 80], [20, 20, 80, 80]])
    found = Detections(boxes, np.float32([0.9, 0.5]), np.array([1, 2]), ["", ""])
    drawn = np.asarray(draw_detections(ground(), found))
    assert (drawn[20, 40] == category_color(1)).all()


def test_a_small_image_is_enlarged_by_a_whole_factor_with_its_boxes():
    found = Detections(np.float32([[20, 30, 80, 90]]), np.float32([0.9]), np.array([1]), ["disc"])
    drawn = np.asarray(draw_detections(ground(), found, longest_side=401))
    assert drawn.shape == (360, 600, 3)
    color = np.argwhere((drawn[100:] == category_color(1)).all(axis=2))
    assert color[:, 1].min() == 60 and color[:, 1].max() == 239 and color[:, 0].max() == 269 - 100
    for side in (0, 200):
        same = np.asarray(draw_detections(ground(), found, longest_side=side))
        np.testing.assert_array_equal(same, np.asarray(draw_detections(ground(), found)))
        assert same.shape == (120, 200, 3)


def test_labels_of_the_same_box_lie_beside_each_other():
    boxes = np.float32([[60, 50, 120, 100]] * 3)
    colors = [(220, 20, 20), (20, 220, 20), (20, 20, 220)]
    apart = [np.asarray(draw_boxes(ground(), boxes[:1], ["name"], [color])) for color in colors]
    size = int((apart[0] == colors[0]).all(axis=2).sum())
    together = np.asarray(draw_boxes(ground(), boxes, ["name"] * 3, colors))
    for color in colors[1:]:
        assert (together == color).all(axis=2).sum() > size / 4


def test_labels_stay_within_small_images():
    for height, width in ((1, 1), (5, 300), (300, 5), (40, 40)):
        drawn = draw_boxes(ground(height, width), np.array([[0.0, 0.0, width, height]]), ["a long label 0.99"], [RED])
        assert drawn.size == (width, height)


def test_colours_of_categories_differ_and_text_can_be_read_on_them():
    colors = [category_color(number) for number in range(1, 91)]
    assert len(set(colors)) == 90 and colors == [category_color(number) for number in range(1, 91)]
    for one, other in itertools.pairwise(colors):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 80
    for color in colors:
        plain = np.full((30, 60, 3), color, np.uint8)
        drawn = np.asarray(draw_boxes(plain, np.array([[20.0, 20.0, 24.0, 24.0]]), ["MMMM"], [color]))
        own, tones = luminance(np.array(color)), luminance(np.unique(drawn[:15].reshape(-1, 3), axis=0))
        ratios = (np.maximum(tones, own) + 0.05) / (np.minimum(tones, own) + 0.05)
        assert ratios.max() >= 4.5, color


def luminance(colors):
    """Relative luminance of RGB values, gamma 2.2."""
    return (colors / 255) ** 2.2 @ [0.2126, 0.7152, 0.0722]
