"""Sizes of pictures from their first bytes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from effdet_model.decoding import decode_image


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as decoded, without decoding it where its header tells.

    Raises:
        InputError: the file is missing, or no picture.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG", "BMP", "GIF", "WEBP")) as picture:
            return picture.height, picture.width
    except Exception:  # whatever Pillow says of a damaged file: the decoder says it in one sentence
        height, width = decode_image(path).shape[:2]
        return height, width


def has_turned_size(path: Path) -> bool:
    """Whether a picture carries EXIF data by which viewers turn it by 90 degrees; no decoder here does."""
    try:
        with Image.open(path) as picture:
            return int(picture.getexif().get(0x0112, 1)) in (5, 6, 7, 8)
    except Exception:
        return False
