"""Videos, frame by frame, through PyAV (FFmpeg): never more than a few frames in memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from effdet_model.errors import InputError
from effdet_model.extras import needs

Pixels = npt.NDArray[np.uint8]

_FORMATS = "mov,matroska,avi,gif"
"""Containers that are opened; playlists, which name other files, are not."""
_ENCODERS = (("libx264", {"crf": "18", "preset": "veryfast"}), ("mpeg4", {"qscale": "2"}))
_BT709 = 1
_LIMITED_RANGE = 1


@dataclass(frozen=True)
class Frame:
    """One frame: uint8 [height, width, 3] in RGB, upright; and its time in units of the video's `time_base`."""

    pixels: Pixels
    pts: int


class VideoReader:
    """A video that was opened and whose first frame could be read. Made by `open_video`.

    Attributes:
        size: (height, width) of every frame, upright. rate: frames per second, on average.
        time_base: seconds per unit of `Frame.pts`. expected_frames: as the file says, 0 where it does not.
        damaged: packets that could not be decoded, with `skip_damaged`; frames that the decoder mended.
    """

    def __init__(self, path: Path, container: Any, skip_damaged: bool) -> None:
        self.path = path
        self._container = container
        self._skip_damaged = skip_damaged
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.time_base = Fraction(self._stream.time_base or 1 / self.rate)
        self.expected_frames = int(self._stream.frames)
        self.has_audio = bool(container.streams.audio)
        self.damaged = 0
        self._decoded = 0
        self._last_pts: int | None = None
        self._stored_size: tuple[int, int] | None = None
        decoded = self._decode()
        first = next(decoded, None)
        if first is None:
            raise _refused(path, "no frame")
        self.size = (first.pixels.shape[0], first.pixels.shape[1])
        self._frames = itertools.chain([first], decoded)

    def __iter__(self) -> Iterator[Frame]:
        """The frames in the order in which they are shown; once."""
        return self._frames

    def _decode(self) -> Iterator[Frame]:
        for packet in self._packets():
            for frame in self._frames_of(packet):
                self._decoded += 1
                self.damaged += bool(frame.is_corrupt)
                yield self._frame(frame)

    def _packets(self) -> Iterator[Any]:
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._count_damage(error)
                return
            if packet is None:
                return
            yield packet

    def _frames_of(self, packet: Any) -> list[Any]:
        import av

        try:
            return list(packet.decode())
        except av.error.FFmpegError as error:
            self._count_damage(error)
            return []

    def _count_damage(self, error: Exception) -> None:
        if not self._skip_damaged:
            found = f"damage after frame {self._decoded} ({_reason(error)})"
            raise _refused(self.path, found, "use --skip-bad-images to go on without the damaged part") from error
        self.damaged += 1

    def _frame(self, frame: Any) -> Frame:
        if self._stored_size is None:
            self._stored_size = (frame.height, frame.width)
        height, width = self._stored_size
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
        turned = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
        return Frame(turned, self._rising(frame.pts))

    def _rising(self, pts: int | None) -> int:
        """A frame's time; after the one before it also where the file says otherwise, or nothing."""
        if pts is None:
            usual = max(1, round(1 / self.rate / self.time_base))
            pts = 0 if self._last_pts is None else self._last_pts + usual
        elif self._last_pts is not None:
            pts = max(pts, self._last_pts + 1)
        self._last_pts = pts
        return pts


@contextlib.contextmanager
def open_video(path: Path, skip_damaged: bool = False) -> Iterator[VideoReader]:
    """Open a video file.

    Args:
        skip_damaged: count what cannot be decoded in `VideoReader.damaged`, instead of refusing it.

    Raises:
        InputError: PyAV is missing; the file is no video, or has no frame that can be decoded; while reading:
            something cannot be decoded.
    """
    with needs("video", f"video {path}"):
        import av
    try:
        container = av.open(str(path.resolve()), container_options={"format_whitelist": _FORMATS})
    except (av.error.FFmpegError, OSError) as error:
        raise _refused(path, _reason(error)) from error
    with container:
        if not container.streams.video:
            raise _refused(path, "no video stream")
        yield VideoReader(path, container, skip_damaged)


class VideoWriter:
    """An .mp4 (H.264, or MPEG-4 where FFmpeg lacks it), without sound. Made by `write_video`."""

    def __init__(self, container: Any, size: tuple[int, int], rate: Fraction, time_base: Fraction) -> None:
        import av

        self._container = container
        self._padding = (size[0] % 2, size[1] % 2)
        self._time_base = time_base
        name, options = next((one for one in _ENCODERS if one[0] in av.codecs_available), _ENCODERS[-1])
        self._stream = container.add_stream(name, rate=rate, options=options)
        self._stream.height, self._stream.width = size[0] + self._padding[0], size[1] + self._padding[1]
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE

    def add(self, pixels: Pixels, pts: int) -> None:
        """Append a frame, uint8 [height, width, 3] in RGB."""
        import av

        bottom, right = self._padding
        if bottom or right:
            pixels = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = pts, self._time_base
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._container.mux(self._stream.encode(None))


@contextlib.contextmanager
def write_video(path: Path, size: tuple[int, int], rate: Fraction, time_base: Fraction) -> Iterator[VideoWriter]:
    """Write frames of a size (height, width) into an .mp4; odd sides grow by one pixel, as its colours need it.

    Raises:
        InputError: the frames cannot be encoded.
    """
    import av

    try:
        with av.open(str(path.resolve()), "w", format="mp4") as container:
            writer = VideoWriter(container, size, rate, time_base)
            yield writer
            writer.finish()
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise InputError(
            f"{path.name}: expected frames that FFmpeg can encode as .mp4, found {size[0]}x{size[1]} (height x width) "
            f"at {float(rate):g} frames/s: {_reason(error)}; scale the video or convert it to .mp4."
        ) from error


def _refused(path: Path, found: str, advice: str = "replace it or convert it to .mp4") -> InputError:
    return InputError(f"{path}: expected a whole video, found {found}; {advice}.")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
