"""The demo: the whole way on a machine without the official files, by the same code as a real run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from demo.drawn_images import draw_dataset
from demo.synthetic import write_synthetic_checkpoint
from effdet_model.decoding import decode_image
from effdet_model.errors import InputError
from effdet_model.preprocessing import preprocess
from effdet_model.variants import get_config
from porting.convert import convert
from porting.show import conversion_summary
from verify.diff.run import DiffOptions, run_diff
from verify.parity.run import ParityOptions, parity
from verify.report import print_diff, write_diff_report
from verify.report.parity import print_parity, write_parity_report

if TYPE_CHECKING:
    from torch import Tensor

VARIANT = "d0"
IMAGE_SIZE = (256, 256)
IMAGES = 4

REAL_RUN = """For a real checkpoint:
  python cli.py convert --variant d0                      # downloads the official one
  python cli.py convert --variant d0 --checkpoint DIR     # your own: a folder, .tar.gz or .h5
  python cli.py diff --variant d0 --checkpoint DIR --weights tf_efficientdet_d0.pth --dtype float64 --report report
  python cli.py parity --checkpoint DIR --weights tf_efficientdet_d0.pth --images IMAGES --report report
  python cli.py evaluate --weights tf_efficientdet_d0.pth --coco DIR"""


def run_demo(output: Path, console: Console) -> bool:
    """Write an official-layout checkpoint with seeded weights, convert it, and compare layers and detections.

    Args:
        output: folder for everything made; its files are written anew.

    Returns:
        Whether TensorFlow and PyTorch agree.

    Raises:
        InputError: the folder cannot be written to, or TensorFlow is missing.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: expected a folder that can be made, found: {error.strerror}.") from error
    console.rule("1. A checkpoint in the official layout, with seeded weights")
    dataset = draw_dataset(output / "dataset", count=IMAGES, sizes=(200, 320)).parent
    images = sorted((dataset / "images").iterdir())
    checkpoint = write_synthetic_checkpoint(VARIANT, output / "checkpoint", images=_normalised(images))
    console.print(Text(f"{checkpoint.parent}: checkpoint, model.index, model.data-00000-of-00001"))
    console.rule("2. convert")
    weights = output / f"tf_efficientdet_{VARIANT}.pth"
    console.print(conversion_summary(convert(checkpoint.parent, weights, VARIANT)))
    console.rule("3. diff: TensorFlow and PyTorch, layer by layer")
    options = DiffOptions(image_size=IMAGE_SIZE, images=images[:1], dtype="float64")
    result = run_diff(checkpoint.parent, weights, VARIANT, options)
    print_diff(result, console)
    pages = write_diff_report(result, output / "diff")
    console.print(Text(f"The page: {pages[-1]}"))
    console.rule("4. parity: the detections of both, from the same files")
    same = parity(
        ParityOptions(
            checkpoint.parent, weights, images=dataset / "images", annotations=dataset / "instances.json",
            image_size=IMAGE_SIZE,
        )
    )  # fmt: skip
    print_parity(same, console)
    pages = write_parity_report(same, output / "parity")
    console.print(Text(f"The page: {pages[-1]}"))
    console.print(Text(REAL_RUN))
    return result.passed and same.passed


def _normalised(images: list[Path]) -> Tensor:
    """The pictures as the network sees them, [N, 3, H, W]."""
    import torch

    config = get_config(VARIANT, image_size=IMAGE_SIZE)
    arrays = [preprocess(decode_image(path), config)[0] for path in images]
    return torch.stack([torch.as_tensor(array) for array in arrays])
