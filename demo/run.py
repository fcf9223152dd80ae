"""The demo: the whole way with a small trained checkpoint, by the same code as a real run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.resources import (
    ANNOTATIONS,
    ARCHIVE,
    ASPECT_RATIOS,
    IMAGE_SIZE,
    IMAGES,
    NMS,
    VARIANT,
    category_names,
    official_metrics,
)
from effdet_model.decoding import decode_image
from effdet_model.detector import Detector
from effdet_model.errors import InputError
from effdet_model.factory import create_model
from porting.convert import convert
from porting.files import atomic_write, make_folder
from porting.show import conversion_summary
from verify.diff.result import DiffResult
from verify.diff.run import DiffOptions, run_diff
from verify.evaluation.published import AP_TOLERANCE
from verify.parity.result import ParityResult
from verify.parity.run import ParityOptions, parity
from verify.report import print_diff, write_diff_report
from verify.report.drawing import draw_detections
from verify.report.parity import print_parity, write_parity_report

PROFILE = next(iter(NMS))
"""google/automl's numpy code, the default."""
DRAWN_SCORE = 0.2
DRAWN_SIDE = 480
"""Pixels: the pictures are small, and labels on them would hide the shapes."""

REAL_RUN = """For a real checkpoint:
  python cli.py convert --variant d0                      # downloads the official one
  python cli.py convert --variant d0 --checkpoint DIR     # your own: a folder, .tar.gz or .h5
  python cli.py diff --variant d0 --checkpoint DIR --weights tf_efficientdet_d0.pth --dtype float64 --report report
  python cli.py parity --checkpoint DIR --weights tf_efficientdet_d0.pth --images IMAGES --report report
  python cli.py evaluate --weights tf_efficientdet_d0.pth --coco DIR
  python cli.py detect IMAGE|FOLDER|VIDEO --weights tf_efficientdet_d0.pth --output pictures"""


def run_demo(output: Path, console: Console) -> bool:
    """Convert the shipped checkpoint, compare layers and detections with TensorFlow, measure AP, draw what is found.

    Args:
        output: folder for everything made; its files are written anew.

    Returns:
        Whether TensorFlow and PyTorch agree, with each other and with google/automl's own code.

    Raises:
        InputError: the folder cannot be written to, the installation lacks the demo's data, or TensorFlow is missing.
    """
    _check(output)
    with _one_thread():
        return _run(output, console)


def _run(output: Path, console: Console) -> bool:
    console.rule("1. A trained checkpoint in the official layout")
    console.print(Text(f"{ARCHIVE}: efficientdet-{VARIANT}, trained by google/automl's code on pictures of shapes"))
    console.rule("2. convert")
    weights = output / f"tf_efficientdet_{VARIANT}.pth"
    overrides = _hparams()
    console.print(conversion_summary(convert(ARCHIVE, weights, VARIANT, overrides=overrides, overwrite=True)))
    console.rule("3. diff: TensorFlow and PyTorch, layer by layer, in float64")
    layers = _diff(weights)
    print_diff(layers, console)
    pages = write_diff_report(layers, output / "diff")[-1:]
    console.rule("4. parity: the detections of both, from the same files")
    detections = parity(
        ParityOptions(
            ARCHIVE, weights, images=IMAGES, annotations=ANNOTATIONS, nms=PROFILE, overrides=_hparams(),
        )
    )  # fmt: skip
    print_parity(detections, console)
    pages += write_parity_report(detections, output / "parity")[-1:]
    console.rule("5. COCO metrics beside those of google/automl's own code")
    as_official = _print_metrics(detections, console)
    console.rule("6. Detector: pictures with boxes")
    pictures = draw_pictures(weights, output / "pictures")
    console.print(Text(f"{len(pictures)} pictures, boxes with a score from {DRAWN_SCORE} on; look at:"))
    for path in (*pages, pictures[0], *pictures[1:2]):
        console.print(Text(f"  {path}"))
    console.print(Text(f"  {output / 'pictures'}: all {len(pictures)}"))
    console.print(Text(REAL_RUN))
    return layers.passed and detections.passed and as_official


def _check(output: Path) -> None:
    if not ARCHIVE.is_file():
        raise InputError(
            f"demo: expected its checkpoint at {ARCHIVE}, found none; install the whole package, or run in a clone."
        )
    make_folder(output / "pictures", "--output")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Pictures of 128 x 128 gain nothing from more; on a busy machine, threads that wait for each other took 50 s."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hparams() -> dict[str, Any]:
    """What the checkpoint was trained with, where it differs from the variant's own."""
    return {"image_size": IMAGE_SIZE, "aspect_ratios": ASPECT_RATIOS, "label_map": category_names()}


def _diff(weights: Path) -> DiffResult:
    """On a picture, which excites what was trained, and on noise."""
    options = DiffOptions(images=sorted(IMAGES.iterdir())[:1], noise_seeds=(0,), dtype="float64", hparams=_hparams())
    return run_diff(ARCHIVE, weights, VARIANT, options)


def _print_metrics(result: ParityResult, console: Console) -> bool:
    """Print all 12 for the official code, TensorFlow and PyTorch; whether all are the official ones."""
    assert result.tensorflow_metrics is not None and result.pytorch_metrics is not None
    table = Table(box=None, pad_edge=False)
    for name in ("Metric", "google/automl", "TensorFlow here", "PyTorch"):
        table.add_column(name, justify="left" if name == "Metric" else "right")
    same = True
    for name, official in official_metrics(PROFILE).items():
        theirs, mine = result.tensorflow_metrics.values[name], result.pytorch_metrics.values[name]
        same &= max(abs(theirs - official), abs(mine - official)) <= AP_TOLERANCE / 100
        table.add_row(name, *("none" if value < 0 else f"{value:.4f}" for value in (official, theirs, mine)))
    console.print(table)
    verdict = "PASSED  Both are" if same else "FAILED  Not both are"
    console.print(Text(f"{verdict} within {AP_TOLERANCE} point of the official code's own numbers."))
    return same


def draw_pictures(weights: Path, folder: Path) -> list[Path]:
    """What the ported weights find in the demo's pictures, drawn; the files, named as the pictures.

    Raises:
        InputError: the folder, which must exist, cannot be written to.
    """
    detector = Detector(create_model(weights=weights))
    paths = sorted(IMAGES.iterdir())
    written = [folder / path.name for path in paths]
    for path, target, found in zip(paths, written, detector.stream(paths), strict=True):
        picture = draw_detections(decode_image(path), found.above(DRAWN_SCORE), DRAWN_SIDE)
        with atomic_write(target) as temporary:
            picture.save(temporary, "PNG" if target.suffix == ".png" else "JPEG", quality=92, subsampling=0)
    return written
