"""Small videos made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

RATE = Fraction(25)


def moving_disc(count: int, height: int = 72, width: int = 96) -> list[np.ndarray]:
    """uint8 [height, width, 3] frames: a red disc that moves to the right over a shaded ground."""
    ramp = np.linspace(40, 180, width, dtype=np.uint8)
    ground = np.stack([np.tile(ramp, (height, 1))] * 3, axis=2)
    frames = []
    for number in range(count):
        picture = Image.fromarray(ground)
        left = 5 + 4 * number
        ImageDraw.Draw(picture).ellipse((left, 20, left + 30, 50), fill=(210, 40, 30))
        frames.append(np.array(picture))
    return frames


def write_frames(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: Sequence[int] | None = None,
) -> Path:
    """Write a video; times: of the frames, in 1/1000 s, evenly spaced by default."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_mp4(path: Path) -> None:
    """Mark an .mp4 as recorded with the camera turned: players then show it turned by 90 degrees clockwise."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    one, zero, last = (value.to_bytes(4, "big", signed=True) for value in (1 << 16, 0, 1 << 30))
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    data[start : start + 36] = zero + one + zero + minus + zero + zero + zero + zero + last
    path.write_bytes(data)
