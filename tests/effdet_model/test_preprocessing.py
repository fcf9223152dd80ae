"""Preprocessing against the same steps in TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effdet_model import InputError, get_config
from effdet_model.preprocessing import normalize, prepare_image, preprocess, resize_bilinear, scaled_size
from tests.tensorflow_results import RESIZE_CASES, resize_image, tensorflow_results

MEAN, DEVIATION = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)


@pytest.mark.parametrize("number", range(len(RESIZE_CASES)))
def test_model_input_and_scale_are_tensorflows_bits(number):
    size = RESIZE_CASES[number][1]
    prepared, scale = prepare_image(resize_image(number), size, MEAN, DEVIATION)
    expected = tensorflow_results()[f"resize.{number}"].transpose(2, 0, 1)
    assert prepared.dtype == torch.float32
    np.testing.assert_array_equal(prepared.numpy(), expected)
    assert np.float32(scale) == tensorflow_results()[f"scale.{number}"]


def test_normalize_equals_the_arithmetic_on_every_pixel():
    image = resize_image(2)
    expected = (image.astype(np.float32) - np.float32(MEAN)) / np.float32(DEVIATION)
    np.testing.assert_array_equal(normalize(image, MEAN, DEVIATION), expected.transpose(2, 0, 1))


def test_one_number_serves_all_channels():
    image = resize_image(2)
    np.testing.assert_array_equal(normalize(image, 127.0, 128.0), normalize(image, [127.0] * 3, [128.0] * 3))


def test_scale_range_comes_last_and_turns_padding_into_minus_one():
    prepared, _ = prepare_image(resize_image(2), (128, 256), 0.0, 1.0, scale_range=True)
    plain, _ = prepare_image(resize_image(2), (128, 256), 0.0, 1.0)
    expected = plain.numpy() * np.float32(2) / np.float32(255) - np.float32(1)
    np.testing.assert_array_equal(prepared.numpy(), expected)
    height = scaled_size((33, 77), (128, 256))[0][0]
    assert height < 128 and (prepared[:, height:] == -1).all()


def test_padding_is_zero_at_the_bottom_and_on_the_right():
    (height, width), _ = scaled_size((300, 200), (320, 320))
    prepared, scale = prepare_image(resize_image(3), (320, 320), MEAN, DEVIATION)
    assert (height, width) == (320, 213)
    assert (prepared[:, :, width:] == 0).all() and not (prepared[:, :, :width] == 0).all()
    assert scale == pytest.approx(300 / 320)


def test_resizing_to_the_same_size_changes_nothing():
    image = normalize(resize_image(4), MEAN, DEVIATION)
    np.testing.assert_array_equal(resize_bilinear(image, (128, 128)), image)


def test_the_configuration_says_how(repository):
    image = resize_image(2)
    for variant in ("d0", "lite0", "d0_ap"):
        config = get_config(variant).replace(image_size=(64, 96))
        prepared, scale = preprocess(image, config)
        expected = prepare_image(image, (64, 96), config.mean_rgb, config.stddev_rgb, config.scale_range)
        assert torch.equal(prepared, expected[0]) and scale == expected[1]
    assert preprocess(image, get_config("d0"), (32, 48))[0].shape == (3, 32, 48)


def test_tensors_are_taken_as_arrays_are():
    image = resize_image(2)
    given = torch.from_numpy(image)
    assert torch.equal(prepare_image(given, (64, 64), 0.0, 1.0)[0], prepare_image(image, (64, 64), 0.0, 1.0)[0])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(InputError, match=r"image: expected uint8 \[height, width, 3\] in RGB order, found"):
        prepare_image(image, (64, 64), 0.0, 1.0)


def test_a_side_that_vanishes_is_refused():
    with pytest.raises(InputError, match=r"found 1x2000 \(height x width\), which becomes 0x64"):
        prepare_image(np.zeros((1, 2000, 3), np.uint8), (64, 64), 0.0, 1.0)
