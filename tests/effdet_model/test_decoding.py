"""Decoding against TensorFlow's own, bit by bit, and the refusal of broken files."""

from __future__ import annotations

import io
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from effdet_model import InputError
from effdet_model.decoding import decode_image
from tests.image_cases import image_files
from tests.tensorflow_results import tensorflow_results

REFUSED = ("broken-", "refused-")


@pytest.mark.parametrize("name", [name for name in image_files() if not name.startswith(REFUSED)])
def test_pixels_are_tensorflows(name):
    expected = tensorflow_results()[f"decode.{name}"]
    pixels = decode_image(image_files()[name])
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("name", [name for name in image_files() if name.startswith(REFUSED)])
def test_what_tensorflow_refuses_is_refused(name):
    assert tensorflow_results()[f"decode.{name}"].size == 0
    with pytest.raises(InputError, match=rf"^photo {name}: expected .*, found .*; .*\.$"):
        decode_image(image_files()[name], name=f"photo {name}")


def test_accurate_dct_is_tensorflows_and_differs_from_the_fast_one():
    data = image_files()["jpeg-2-95-False"]
    accurate = decode_image(data, accurate_dct=True)
    np.testing.assert_array_equal(accurate, tensorflow_results()["accurate"])
    assert (accurate != decode_image(data)).any()


def test_a_path_gives_the_same_as_its_bytes(tmp_path):
    path = tmp_path / "picture.whatever"
    path.write_bytes(image_files()["png-rgb"])
    np.testing.assert_array_equal(decode_image(path), decode_image(image_files()["png-rgb"]))
    np.testing.assert_array_equal(decode_image(str(path)), decode_image(path.read_bytes()))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg: expected an image file, found no such file; check the path\.$"):
        decode_image(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match=r"expected a readable image file, found Is a directory"):
        decode_image(tmp_path)


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(InputError, match=r"empty\.png: expected a JPEG, PNG, .* file, found an empty file"):
        decode_image(path)


@pytest.mark.parametrize("name", ["jpeg-2-95-False", "png-rgb", "gif", "bmp", "webp"])
def test_too_many_pixels_are_refused_before_decoding(name):
    with pytest.raises(InputError, match=r"expected at most 2336 pixels, found 41x57 \(height x width\)"):
        decode_image(image_files()[name], max_pixels=41 * 57 - 1)
    assert decode_image(image_files()[name], max_pixels=41 * 57).shape == (41, 57, 3)


def test_a_decompression_bomb_is_refused():
    header = image_files()["png-rgb"]
    size = (2**17).to_bytes(4, "big") * 2
    chunk = b"IHDR" + size + header[24:29]
    bomb = header[:12] + chunk + crc32(chunk).to_bytes(4, "big") + header[33:]
    with pytest.raises(InputError, match="expected at most"):
        decode_image(bomb)


def test_colours_that_tensorflow_would_change_are_refused():
    """TensorFlow reads the palette numbers of an 8-bit BMP as grey, and shrinks a GIF to its largest frame."""
    buffer = io.BytesIO()
    Image.fromarray(decode_image(image_files()["png-rgb"])).quantize(9).save(buffer, "BMP")
    with pytest.raises(InputError, match="expected a BMP of 24 or 32 bits or of plain grey, found 8 bits"):
        decode_image(buffer.getvalue())
    gif = bytearray(image_files()["gif"])
    gif[6:10] = bytes([77, 0, 66, 0])
    with pytest.raises(InputError, match="expected a GIF whose first frame fills it"):
        decode_image(bytes(gif))


def test_images_of_the_validation_set_decode(shared):
    paths = sorted((shared / "shapes" / "images").iterdir())
    assert len(paths) == 60
    assert all(decode_image(path).ndim == 3 for path in paths)
