"""Detection in a video: its frames with boxes as an .mp4 with the same times, and a list per frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from detect.job import DETECTIONS_FILE, DetectionJob, DetectResult
from detect.listing import detections_file
from detect.video import Frame, VideoReader, open_video, write_video
from porting.files import atomic_write
from verify.report.drawing import draw_detections


def detect_video(job: DetectionJob, progress: Callable[[int, int], None]) -> DetectResult:
    """Write NAME.mp4 and detections.json; at most a batch of frames is held in memory.

    Raises:
        InputError: PyAV is missing, or the video cannot be read.
    """
    (path,) = job.files
    target = job.output / f"{path.stem}.mp4"
    listing = job.output / DETECTIONS_FILE
    done = listed = drawn = 0
    with open_video(path, job.options.skip_bad_images) as video:
        header = {**job.header(), "video": {**_described(video), "file": path.name, "annotated": target.name}}
        with (
            detections_file(listing, header, "frames") as entries,
            atomic_write(target) as temporary,
            write_video(temporary, video.size, video.rate, video.time_base) as writer,
        ):
            for batch in _batches(iter(video), job.options.batch_size):
                for frame, found in zip(batch, job.find([frame.pixels for frame in batch]), strict=True):
                    writer.add(np.asarray(draw_detections(frame.pixels, job.drawn(found))), frame.pts)
                    entry = {"frame": done, "time": round(float(frame.pts * video.time_base), 6)}
                    entries.add(entry, job.listed(found))
                    done += 1
                    listed += len(job.listed(found))
                    drawn += len(job.drawn(found))
                    progress(done, max(done, video.expected_frames))
            notes = tuple(_notes(video, done))
            entries.closing["notes"] = notes
    return DetectResult(
        source=str(job.source),
        kind="video",
        output=str(job.output),
        detections_file=str(listing),
        annotated=(str(target),),
        images=done,
        detections=listed,
        drawn=drawn,
        notes=notes,
    )


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, size)):
        yield batch


def _described(video: VideoReader) -> dict[str, object]:
    height, width = video.size
    return {"width": width, "height": height, "frames_per_second": float(video.rate)}


def _notes(video: VideoReader, done: int) -> Iterator[str]:
    if video.has_audio:
        yield "The annotated video has no sound."
    if video.size[0] % 2 or video.size[1] % 2:
        yield "The annotated video is one pixel larger where a side is odd, as its encoding needs even sides."
    if video.damaged:
        yield f"{video.damaged} damaged parts of the video were left out or mended by the decoder."
    if done < video.expected_frames:
        yield f"The video announces {video.expected_frames} frames, {done} could be read: it may have been cut off."
