"""Anchors against the golden ones and against a second derivation, box by box."""

from __future__ import annotations

import math

import numpy as np
import pytest

from effdet_model import InputError, get_config, list_variants
from effdet_model.anchors import anchors_from_config, generate_anchors
from effdet_model.fpn_graph import feature_sizes

PAIRS = [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)]
CASES = [
    ((128, 128), 3, 7, 3, [1.0, 2.0, 0.5], 4.0),
    ((160, 160), 3, 7, 3, [1.0, 2.0, 0.5], 3.0),
    ((130, 257), 3, 7, 2, PAIRS, 4.0),
    ((96, 200), 2, 5, 1, [1.0, [2.0, 0.25]], [1.0, 2.0, 3.0, 4.5]),
    ((77, 61), 3, 8, 4, [0.3], 5),
]


def box_by_box(image_size, min_level, max_level, num_scales, aspects, anchor_scale):
    """Plain loops in Python's float64: stride, size and centre of every anchor by itself."""
    boxes = []
    for level in range(min_level, max_level + 1):
        rows, columns = (math.ceil(side / 2**level) for side in image_size)
        down, right = image_size[0] / rows, image_size[1] / columns
        scale = anchor_scale[level - min_level] if isinstance(anchor_scale, list) else anchor_scale
        for row in range(rows):
            for column in range(columns):
                y, x = down / 2 + row * down, right / 2 + column * right
                for octave in range(num_scales):
                    for aspect in aspects:
                        wide, high = (math.sqrt(aspect), 1 / math.sqrt(aspect)) if isinstance(aspect, float) else aspect
                        grown = scale * 2 ** (octave / num_scales)
                        half_height, half_width = grown * down * high / 2, grown * right * wide / 2
                        boxes.append((y - half_height, x - half_width, y + half_height, x + half_width))
    return np.array(boxes)


@pytest.mark.parametrize("case", CASES)
def test_anchors_equal_a_second_derivation(case):
    anchors = generate_anchors(*case)
    expected = box_by_box(*case)
    assert anchors.dtype == np.float32 and anchors.shape == expected.shape
    # Centres of fractional strides are sums in one and products in the other: half a bit of float32 apart.
    np.testing.assert_allclose(anchors, expected, rtol=2**-23, atol=1e-13)


def test_anchors_are_the_golden_bits(shared):
    with np.load(shared / "golden" / "d0_128_detections.npz") as golden:
        np.testing.assert_array_equal(generate_anchors(*CASES[0]), golden["anchors"])


@pytest.mark.parametrize("variant", [name for name in list_variants() if not name.startswith(("tf_", "efficientdet"))])
def test_every_configuration_has_as_many_anchors_as_outputs(variant):
    config = get_config(variant).replace(image_size=(256, 384))
    sizes = feature_sizes((256, 384), config.max_level)[config.min_level :]
    per_place = config.num_scales * len(config.aspect_ratios)
    anchors = anchors_from_config(config)
    assert len(anchors) == per_place * sum(height * width for height, width in sizes)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert (centers > 0).all() and (centers < (256, 384)).all()


def test_pairs_and_ratios_differ_by_one_percent():
    ratios = generate_anchors((128, 128), 3, 7, 3, [1.0, 2.0, 0.5], 4.0)
    pairs = generate_anchors((128, 128), 3, 7, 3, PAIRS, 4.0)
    assert np.array_equal(ratios[::3], pairs[::3])
    widths = (ratios[1::3, 3] - ratios[1::3, 1]) / (pairs[1::3, 3] - pairs[1::3, 1])
    np.testing.assert_allclose(widths, math.sqrt(2) / 1.4, rtol=1e-5)


def test_feature_sizes_round_up():
    assert feature_sizes((130, 1), 3) == [(130, 1), (65, 1), (33, 1), (17, 1)]


def test_a_wrong_number_of_scales_is_refused():
    with pytest.raises(InputError, match="expected one number or one for each of the 5 levels, found 2 numbers"):
        generate_anchors((128, 128), 3, 7, 3, [1.0], [4.0, 3.0])
