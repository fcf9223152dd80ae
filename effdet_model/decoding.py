"""Image files to uint8 RGB with the bits that TensorFlow's tf.io.decode_image(channels=3) gives (2.21).

JPEG (fast DCT, as TensorFlow's default), PNG, GIF (first frame), BMP and WebP; EXIF orientation is ignored, as
there. What TensorFlow refuses, or would turn into other colours, is refused with its name.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile

from effdet_model.errors import InputError

Pixels = npt.NDArray[np.uint8]
MAX_PIXELS = 2**29 // 3
"""The largest image that is decoded by default: TensorFlow's own limit for a JPEG (2**29 bytes)."""
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
SUPPORTED = "JPEG, PNG, GIF, BMP or WebP"


def decode_image(
    source: bytes | str | os.PathLike[str],
    *,
    accurate_dct: bool = False,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> Pixels:
    """uint8 [height, width, 3] in RGB order, of an image file's bytes or of the file at a path.

    Grey becomes three equal channels, 16 bits lose their low byte, alpha and transparency are dropped, CMYK is
    multiplied with black; all as TensorFlow does it. accurate_dct decodes JPEG with the slower, exact DCT
    (TensorFlow's dct_method="INTEGER_ACCURATE"). `name` stands for the bytes in messages.

    Raises InputError, naming the file, where it is missing, empty, truncated, corrupt, of another format or
    larger than `max_pixels`.
    """
    if isinstance(source, bytes):
        data, name = source, name or f"image of {len(source)} bytes"
    else:
        data, name = _read(source), name or os.fspath(source)
    if not data:
        _refuse(name, f"a {SUPPORTED} file", "an empty file", "replace or remove it")
    if data.startswith(b"\xff\xd8\xff"):
        return _decode_jpeg(data, name, accurate_dct, max_pixels)
    if data.startswith(PNG_MAGIC):
        _check_png(data, name)
        return _decode_with_pillow(data, name, "PNG", max_pixels)
    for magic, kind in ((b"GIF8", "GIF"), (b"BM", "BMP")):
        if data.startswith(magic):
            return _decode_with_pillow(data, name, kind, max_pixels)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _decode_with_pillow(data, name, "WEBP", max_pixels)
    _refuse(name, f"a {SUPPORTED} file", f"a file that starts with {data[:8]!r}", "convert it to PNG")


def _refuse(name: str, expected: str, found: str, advice: str) -> NoReturn:
    raise InputError(f"{name}: expected {expected}, found {found}; {advice}.")


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        _refuse(os.fspath(path), "an image file", "no such file", "check the path")
    except OSError as error:
        _refuse(os.fspath(path), "a readable image file", error.strerror or str(error), "check the path")


def _check_size(name: str, height: int, width: int, max_pixels: int) -> None:
    size = f"{height}x{width} (height x width)"
    if height < 1 or width < 1:
        _refuse(name, "an image of at least 1x1 pixel", size, "replace or remove it")
    if height * width > max_pixels:
        _refuse(name, f"at most {max_pixels} pixels", size, "scale it down or raise max_pixels")


def _decode_jpeg(data: bytes, name: str, accurate_dct: bool, max_pixels: int) -> Pixels:
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        _check_size(name, height, width, max_pixels)
        is_print = colors in ("CMYK", "YCCK")
        pixels = _decode_damaged_too(data, "CMYK" if is_print else "RGB", fast_dct=not accurate_dct)
    except InputError:
        raise
    except ValueError as error:
        _refuse(name, "a whole JPEG file", str(error), "replace or remove it")
    except KeyError:
        _refuse(name, "a whole JPEG file", "one whose header is incomplete", "replace or remove it")
    return _rgb_of_cmyk(pixels, inverted=_has_adobe_marker(data)) if is_print else pixels


def _decode_damaged_too(data: bytes, colors: str, fast_dct: bool) -> Pixels:
    """Like libjpeg within TensorFlow: a file that ends early is an error, damaged blocks within are not."""
    pixels: Pixels
    try:
        pixels = simplejpeg.decode_jpeg(data, colors, fast_dct, False, strict=True)
    except ValueError as error:
        if "remature end of JPEG file" in str(error):
            raise
        pixels = simplejpeg.decode_jpeg(data, colors, fast_dct, False, strict=False)
    return pixels


def _rgb_of_cmyk(cmyk: Pixels, inverted: bool) -> Pixels:
    """Colour times black over 255, rounded down; files with an Adobe marker store 255 minus the ink."""
    light = cmyk.astype(np.uint16)
    if not inverted:
        light = 255 - light
    return (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)


def _has_adobe_marker(data: bytes) -> bool:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[position + 2 : position + 4])
        if data[position + 1] == 0xEE and data[position + 4 : position + 9] == b"Adobe" and length >= 14:
            return True
        position += 2 + length
    return False


def _check_png(data: bytes, name: str) -> None:
    """Refuse what libpng refuses and Pillow lets pass: a missing end, a wrong checksum of a critical chunk."""
    position, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            _refuse(name, "a whole PNG file", "one that ends before its last chunk", "replace or remove it")
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        is_critical = not kind[0] & 0x20
        if is_critical and zlib.crc32(memoryview(data)[position + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            _refuse(name, "a whole PNG file", f"a damaged {kind!r} chunk", "replace or remove it")
        position = end + 4


def _decode_with_pillow(data: bytes, name: str, kind: str, max_pixels: int) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=[kind])
        _check_size(name, image.height, image.width, max_pixels)
        _check_kind(image, data, name, kind)
        image.load()
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        _refuse(name, f"at most {max_pixels} pixels", str(error), "scale it down")
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error) as error:
        _refuse(name, f"a whole {kind} file", str(error) or "a corrupt one", "replace or remove it")
    return _rgb_of_pillow(image)


def rgb_pixels(image: Image.Image) -> Pixels:
    """uint8 [height, width, 3] in RGB order of a Pillow image, converted as `decode_image` converts files.

    Grey becomes three equal channels, 16 bits lose their low byte, alpha and transparency are dropped, CMYK is
    multiplied with black; EXIF orientation is ignored. The image stays as it is.

    Raises InputError for a mode without such a meaning (floats), and for a file that Pillow cannot read.
    """
    name = f"Pillow image {os.fspath(getattr(image, 'filename', '') or '')}".rstrip()
    try:
        image.load()
        if image.mode == "F":
            _refuse(name, "8 or 16 bits per channel", "mode F, floats of unknown range", "convert it to uint8")
        if image.mode == "CMYK":
            # Pillow takes every JPEG of CMYK for Adobe's, which stores 255 minus the ink
            wrongly_inverted = image.format == "JPEG" and "adobe" not in image.info
            return _rgb_of_cmyk(np.asarray(image), inverted=wrongly_inverted)
        return _rgb_of_pillow(image.convert("RGBA") if image.mode == "RGBa" else image)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        _refuse(name, "one that converts to RGB", f"mode {image.mode}: {error}", "convert it yourself")


def _rgb_of_pillow(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16") or image.mode == "I":
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    transparent = image.info.get("transparency")
    pixels = np.array(_without_transparency(image).convert("RGB"))
    if image.format == "GIF" and isinstance(transparent, int) and image.mode == "P":
        pixels[np.asarray(image) == transparent] = 0
    return pixels


def _without_transparency(image: Image.Image) -> Image.Image:
    """The image, or a copy where `convert` would heed its transparency."""
    if "transparency" not in image.info:
        return image
    plain = image.copy()
    del plain.info["transparency"]
    return plain


def _check_kind(image: ImageFile.ImageFile, data: bytes, name: str, kind: str) -> None:
    if kind == "BMP":
        (bits,) = struct.unpack("<H", data[28:30])
        (compression,) = struct.unpack("<I", data[30:34])
        plain = (bits in (24, 32) and compression in (0, 3)) or (image.mode == "L" and compression == 0)
        if not plain:
            found = f"{bits} bits and compression {compression}"
            _refuse(name, "a BMP of 24 or 32 bits or of plain grey", found, "convert it to PNG")
    if kind == "GIF" and image.tile[0][1] != (0, 0, image.width, image.height):
        _refuse(name, "a GIF whose first frame fills it", f"a frame at {image.tile[0][1]}", "convert it to PNG")
    if kind == "WEBP" and (image.mode != "RGB" or getattr(image, "is_animated", False)):
        _refuse(name, "a WebP still without alpha", f"mode {image.mode} or an animation", "convert it to PNG")
