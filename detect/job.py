"""What a detection run is to do and what it gave: options, checks before the first image, result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from effdet_model.detector import Detections, Detector
from effdet_model.errors import InputError
from porting.files import make_folder
from verify.evaluation.coco import IMAGE_SUFFIXES
from verify.evaluation.model_settings import prepare_model
from verify.evaluation.result import SkippedImage

Kind = Literal["image", "folder", "video"]
Pixels = npt.NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif")
DETECTIONS_FILE = "detections.json"


@dataclass(frozen=True)
class DetectOptions:
    """What to look at, with which weights, and where to write. Paths as given by the user.

    Attributes:
        source: an image; a folder, of which the images are taken in the order of their names, subfolders left out; or
            a video. An animated GIF is a video, within a folder its first frame.
        output: a folder, made where it is missing; not the one that the source lies in.
        variant: may be None where the weights' metadata names it.
        nms: name of a suppression profile; None: numpy_gaussian, with what the weights' nms_configs set.
        score_threshold: of what is drawn. min_score: of what is written to detections.json.
        max_detections: per image; None: the profile's 100.
        image_size: (height, width), one number or text; None: the weights' own.
        device: e.g. "cpu", "cuda:1"; None: a GPU if there is one.
        label_map: "coco", "voc", "waymo" or a YAML file of `id: name`; None: the weights' own.
        skip_bad_images: leave out, and list, what cannot be read, instead of refusing it.
        overrides: config fields, e.g. parsed from --hparams. engine: as `effdet_model.Detector` takes it.
    """

    source: str | Path
    weights: str | Path
    output: str | Path
    variant: str | None = None
    nms: str | None = None
    score_threshold: float = 0.3
    min_score: float = 0.05
    max_detections: int | None = None
    batch_size: int = 8
    device: str | None = None
    image_size: int | str | tuple[int, int] | None = None
    label_map: str | None = None
    skip_bad_images: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    engine: str | None = None


@dataclass(frozen=True)
class DetectResult:
    """What was found and written.

    Attributes:
        images: images or frames that were looked at. detections: of them all, as in detections.json; drawn: those
            that are drawn. annotated: the files with boxes. seconds: from the first image to the last file.
        notes: what to know of the output, in sentences.
    """

    source: str
    kind: Kind
    output: str
    detections_file: str
    annotated: tuple[str, ...]
    images: int
    detections: int
    drawn: int
    skipped: tuple[SkippedImage, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self) | {"skipped": skipped_files(self.skipped)}

    def summary(self) -> str:
        """A few lines for people."""
        what = {"image": "image", "folder": "images", "video": "frames"}[self.kind]
        speed = f", {self.images / self.seconds:.1f} {what}/s" if self.seconds > 0 and self.images > 1 else ""
        where = self.annotated[0] if len(self.annotated) == 1 else f"{len(self.annotated)} images in {self.output}"
        return "\n".join(
            [
                f"{self.images} {what}: {self.detections} detections, {self.drawn} drawn{speed}",
                where,
                self.detections_file,
                *(f"skipped {one.path}: {one.reason}" for one in self.skipped),
                *(f"note: {note}" for note in self.notes),
            ]
        )


def skipped_files(skipped: Sequence[SkippedImage]) -> list[dict[str, str]]:
    """As the JSON files list them."""
    return [{"file": one.path, "reason": one.reason} for one in skipped]


@dataclass(frozen=True)
class DetectionJob:
    """Everything that was checked before the first image is read."""

    options: DetectOptions
    kind: Kind
    files: tuple[Path, ...]
    """The images, or the video."""
    detector: Detector
    output: Path

    @property
    def source(self) -> Path:
        """As given."""
        return Path(self.options.source)

    def find(self, images: Sequence[Pixels]) -> list[Detections]:
        """Detections of a batch, all with finite boxes."""
        return [_finite(found) for found in self.detector(images)] if images else []

    def listed(self, found: Detections) -> Detections:
        """Those that are written to detections.json."""
        return found.above(self.options.min_score)

    def drawn(self, found: Detections) -> Detections:
        """Those that are drawn."""
        return found.above(self.options.score_threshold)

    def header(self) -> dict[str, Any]:
        """What detections.json says before its first detection."""
        config = self.detector.config
        return {
            "source": str(self.options.source),
            "weights": str(self.options.weights),
            "variant": config.name,
            "image_size": list(config.image_size),
            "nms": dataclasses.asdict(self.detector.profile),
            "min_score": self.options.min_score,
            "score_threshold_drawn": self.options.score_threshold,
            "boxes": "pixels of the original, upper left corner is (0, 0), not clipped to it",
        }


def prepare_detection(options: DetectOptions) -> DetectionJob:
    """Check everything that can be checked before work begins; load the model; make the output folder.

    Raises:
        InputError: an option, the source, the weights or the output is not as it must be.
    """
    for name, value in (("--score-threshold", options.score_threshold), ("--min-score", options.min_score)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}: expected a number from 0 to 1, found {value}; correct it.")
    if options.max_detections is not None and options.max_detections < 1:
        raise InputError(f"--max-detections: expected at least 1, found {options.max_detections}; correct it.")
    kind, files = _files_of(Path(options.source))
    output = Path(options.output)
    _check_output(output, files)
    sizes = {"max_output_size": options.max_detections} if options.max_detections else None
    settings = prepare_model(
        options.weights, options.variant, device=options.device, image_size=options.image_size,
        overrides=options.overrides, nms=options.nms, nms_configs=sizes,
    )  # fmt: skip
    detector = Detector(
        settings.model, settings.profile, batch_size=options.batch_size, label_map=options.label_map,
        engine=options.engine,
    )
    make_folder(output, "--output")
    return DetectionJob(options, kind, files, detector, output)


def _files_of(source: Path) -> tuple[Kind, tuple[Path, ...]]:
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not files:
            raise InputError(
                f"folder {source}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none; name the folder that "
                "they lie in (subfolders are not searched), or one image or video."
            )
        return "folder", tuple(files)
    if not source.is_file():
        raise InputError(f"{source}: expected an image, a folder of images or a video, found none; check the path.")
    suffix = source.suffix.lower()
    is_video = suffix in VIDEO_SUFFIXES and (suffix != ".gif" or _is_animated(source))
    if not is_video and suffix not in IMAGE_SUFFIXES:
        raise InputError(
            f"{source}: expected an image ({', '.join(IMAGE_SUFFIXES)}), a folder of images or a video "
            f"({', '.join(VIDEO_SUFFIXES)}), found {suffix or 'no suffix'!r}; convert or rename it."
        )
    return ("video" if is_video else "image"), (source,)


def _is_animated(path: Path) -> bool:
    """False also for a file that is no GIF: decoding it as an image then says what is wrong."""
    try:
        with Image.open(path, formats=["GIF"]) as image:
            return bool(getattr(image, "is_animated", False))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return False


def _check_output(output: Path, files: tuple[Path, ...]) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output}: expected a folder, found a file; name a folder.")
    if output.exists() and output.samefile(files[0].parent):
        raise InputError(
            f"--output {output}: expected a folder of its own, found the one of the source, whose files would be "
            "overwritten; name another."
        )


def _finite(found: Detections) -> Detections:
    kept = np.flatnonzero(np.isfinite(found.boxes_xyxy).all(axis=1) & np.isfinite(found.scores))
    if len(kept) == len(found):
        return found
    names = [found.names[index] for index in kept]
    return Detections(found.boxes_xyxy[kept], found.scores[kept], found.category_ids[kept], names)
