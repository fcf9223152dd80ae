"""From weights and images, or a video, to pictures with boxes and a list of detections."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from detect.job import (
    DETECTIONS_FILE,
    DetectionJob,
    DetectOptions,
    DetectResult,
    Pixels,
    prepare_detection,
    skipped_files,
)
from detect.listing import detections_file
from effdet_model.decoding import decode_image
from effdet_model.errors import InputError
from effdet_model.preprocessing import scaled_size
from porting.files import atomic_write
from verify.evaluation.result import SkippedImage
from verify.report.drawing import draw_detections

Progress = Callable[[int, int], None]
"""Called with (images or frames done, how many there are)."""

_KEPT_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def detect(options: DetectOptions, progress: Progress | None = None) -> DetectResult:
    """Find, draw and list the objects in an image, in a folder of images or in a video.

    Written to the output folder: every image with its boxes under its own name (.jpg and .png stay what they are,
    others become NAME.SUFFIX.png), or the video as NAME.mp4; and detections.json. Each file appears whole or not at
    all. EXIF orientation is ignored, as TensorFlow ignores it.

    Raises:
        InputError: an option, the source, the weights or the output is not as it must be; an image or frame cannot
            be read and `skip_bad_images` is not set, or no image at all can be read.
    """
    job = prepare_detection(options)
    started = time.monotonic()
    if job.kind == "video":
        from detect.run_video import detect_video

        result = detect_video(job, progress or _silent)
    else:
        result = _detect_images(job, progress or _silent)
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def _silent(done: int, total: int) -> None:
    pass


def _detect_images(job: DetectionJob, progress: Progress) -> DetectResult:
    names = output_names(job.files)
    annotated: list[str] = []
    skipped: list[SkippedImage] = []
    listed = drawn = 0
    target = job.output / DETECTIONS_FILE
    with detections_file(target, job.header(), "images") as entries:
        for batch in _batches(job, skipped):
            found_in_batch = job.find([pixels for _, pixels in batch])
            for (path, pixels), found in zip(batch, found_in_batch, strict=True):
                written = job.output / names[path]
                _write_picture(written, draw_detections(pixels, job.drawn(found)))
                annotated.append(str(written))
                entry = {"file": path.name, "annotated": written.name}
                height, width = pixels.shape[:2]
                entries.add({**entry, "width": width, "height": height}, job.listed(found))
                listed += len(job.listed(found))
                drawn += len(job.drawn(found))
                progress(len(annotated) + len(skipped), len(job.files))
        if not annotated:
            raise InputError(
                f"{job.source}: expected at least one image that can be read, all {len(skipped)} were skipped: "
                f"{skipped[0].reason}"
            )
        entries.closing["skipped"] = skipped_files(skipped)
    return DetectResult(
        source=str(job.source),
        kind=job.kind,
        output=str(job.output),
        detections_file=str(target),
        annotated=tuple(annotated),
        images=len(annotated),
        detections=listed,
        drawn=drawn,
        skipped=tuple(skipped),
    )


def _batches(job: DetectionJob, skipped: list[SkippedImage]) -> Iterator[list[tuple[Path, Pixels]]]:
    """Images that can be read, in batches; the others are added to `skipped`, or refused."""
    batch: list[tuple[Path, Pixels]] = []
    for path in job.files:
        try:
            batch.append((path, _read(path, job.detector.config.image_size)))
        except InputError as error:
            if not job.options.skip_bad_images:
                hint = " Or use --skip-bad-images." if job.kind == "folder" else ""
                raise InputError(f"{error}{hint}") from error
            skipped.append(SkippedImage(None, path.name, str(error)))
        if len(batch) == job.options.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(path: Path, image_size: tuple[int, int]) -> Pixels:
    pixels = decode_image(path)
    try:
        scaled_size((pixels.shape[0], pixels.shape[1]), image_size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return pixels


def output_names(files: tuple[Path, ...]) -> dict[Path, str]:
    """A file name for each annotated image; no two are the same, not even where case does not count.

    a.jpg and a.png keep their names; a.bmp becomes a.bmp.png.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in sorted(files, key=lambda path: path.suffix.lower() not in _KEPT_SUFFIXES):
        wanted = path.name if path.suffix.lower() in _KEPT_SUFFIXES else f"{path.name}.png"
        name, number = wanted, 2
        while name.casefold() in taken:
            name = f"{Path(wanted).stem}_{number}{Path(wanted).suffix}"
            number += 1
        taken.add(name.casefold())
        names[path] = name
    return names


def _write_picture(path: Path, picture: Image.Image) -> None:
    with atomic_write(path) as temporary:
        picture.save(temporary, _KEPT_SUFFIXES[path.suffix.lower()], quality=92, subsampling=0)
