"""Small image files of every kind that decoding must handle or refuse, made on the spot."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

JPEG_SETTINGS = [(sub, quality, prog) for sub in (0, 1, 2) for quality in (30, 95) for prog in (False, True)]


@functools.cache
def image_files() -> dict[str, bytes]:
    """Name to file, whole files first; what TensorFlow makes of each is asked of TensorFlow."""
    random = np.random.RandomState(0)
    rgb = _smooth(random, "RGB", 3)
    grey, rgba = rgb.convert("L"), rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(random.randint(0, 255, (41, 57)).astype(np.uint8)))
    palette = rgb.quantize(200)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    files = {
        f"jpeg-{sub}-{quality}-{prog}": _encode(rgb, "JPEG", subsampling=sub, quality=quality, progressive=prog)
        for sub, quality, prog in JPEG_SETTINGS
    }
    cmyk = _encode(_smooth(random, "CMYK", 4), "JPEG")
    files |= {
        "jpeg-grey": _encode(grey, "JPEG"),
        "jpeg-exif": _encode(rgb, "JPEG", exif=rotated),
        "jpeg-rgb": _encode(rgb, "JPEG", keep_rgb=True, subsampling=0),
        "jpeg-cmyk": cmyk,
        "jpeg-ycck": _patched(cmyk, cmyk.index(b"Adobe") + 11, b"\x02"),
        "jpeg-cmyk-no-adobe": _without_adobe(cmyk),
        "png-rgb": _encode(rgb, "PNG"),
        "png-grey": _encode(grey, "PNG"),
        "png-rgba": _encode(rgba, "PNG"),
        "png-grey-alpha": _encode(rgba.convert("LA"), "PNG"),
        "png-palette": _encode(palette, "PNG"),
        "png-palette-4": _encode(rgb.quantize(7), "PNG", bits=4),
        "png-palette-transparent": _encode(palette, "PNG", transparency=3),
        "png-palette-alpha": _encode(rgba.quantize(50), "PNG"),
        "png-grey-transparent": _encode(grey, "PNG", transparency=100),
        "png-animated": _encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "gif": _encode(rgb, "GIF"),
        "gif-animated": _encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "gif-transparent": _encode(palette, "GIF", transparency=3),
        "bmp": _encode(rgb, "BMP"),
        "bmp-grey": _encode(grey, "BMP"),
        "bmp-rgba": _encode(rgba, "BMP"),
        "webp": _encode(rgb, "WEBP"),
        "webp-lossless": _encode(rgb, "WEBP", lossless=True),
    }
    for bits, color, channels in ((1, 0, 1), (2, 0, 1), (4, 0, 1), (16, 0, 1), (16, 2, 3), (16, 4, 2), (16, 6, 4)):
        files[f"png-{bits}-bit-color-{color}"] = _raw_png(random, bits, color, channels)
    return files | _broken_files(rgb, rgba)


def _broken_files(rgb: Image.Image, rgba: Image.Image) -> dict[str, bytes]:
    jpeg, png = _encode(rgb, "JPEG", quality=90), _encode(rgb, "PNG")
    files = {f"broken-jpeg-cut-{cut}": jpeg[:-cut] for cut in (1, 3, 40, len(jpeg) // 2, len(jpeg) - 9)}
    files |= {f"broken-png-cut-{cut}": png[:-cut] for cut in (1, 12, 16, len(png) // 2, len(png) - 20)}
    files |= {f"broken-png-flip-{at}": _patched(png, at, bytes([png[at] ^ 1])) for at in (20, 1507, len(png) - 14)}
    return files | {
        "broken-jpeg-tables": _patched(jpeg, 400, b"\xff\xd9\x00\x13"),
        "damaged-jpeg-700": _patched(jpeg, 700, b"\xff\xd9\x00\x13"),
        "damaged-jpeg-900": _patched(jpeg, 900, b"\xff\xd9\x00\x13"),
        "broken-gif": _encode(rgb, "GIF")[:-300],
        "broken-bmp": _encode(rgb, "BMP")[:-100],
        "broken-webp": _encode(rgb, "WEBP")[:-100],
        "refused-webp-alpha": _encode(rgba, "WEBP", lossless=True),
        "refused-webp-animated": _encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)]),
        "refused-bmp-1": _encode(rgb.convert("1"), "BMP"),
        "refused-tiff": _encode(rgb, "TIFF"),
        "refused-text": b"not an image at all",
        "refused-empty": b"",
    }


def _smooth(random: np.random.RandomState, mode: str, channels: int) -> Image.Image:
    noise = random.randint(0, 255, (41, 57, channels)).astype(np.uint8)
    return Image.fromarray(noise, mode).filter(ImageFilter.GaussianBlur(2))


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def _without_adobe(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    (length,) = struct.unpack(">H", data[start + 2 : start + 4])
    return data[:start] + data[start + 2 + length :]


def _raw_png(random: np.random.RandomState, bits: int, color: int, channels: int) -> bytes:
    height, width = 21, 33
    values = random.randint(0, 2**bits, (height, width * channels))
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        rows = [
            np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in values
        ]
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = ((b"IHDR", header), (b"gAMA", struct.pack(">I", 45455)), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
