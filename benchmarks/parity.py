"""What parity costs: the whole against the slower of both frameworks alone, on the same images from file to detections.

    python -m benchmarks.parity --checkpoint DIR --images DIR [--variant d0] [--image-size 512] [--limit N] [--runs 3]

Alone, each framework has all the cores; together they share them. Start-up is part of all three. Prints each run and
the median ratio; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from effdet_model.factory import create_model
from effdet_model.nms_profiles import resolve_profile
from porting.checkpoint.sources import open_source
from porting.convert import convert
from verify.evaluation.coco import ImageRecord, load_folder
from verify.parity.port import PortSide, thread_shares
from verify.parity.run import ParityOptions, parity
from verify.reference.process import ReferenceProcess


@dataclasses.dataclass(frozen=True)
class Work:
    """What all three do."""

    checkpoint: str
    weights: Path
    images: Path
    size: str
    limit: int | None
    nms: str

    def groups(self, side: PortSide) -> list[list[ImageRecord]]:
        """The images in batches."""
        dataset = load_folder(self.images)
        records = list((dataset.first(self.limit) if self.limit else dataset).images)
        return [records[at : at + side.batch_size] for at in range(0, len(records), side.batch_size)]

    def side(self, threads: int) -> PortSide:
        """PyTorch's, with its threads set."""
        torch.set_num_threads(threads)
        return PortSide(create_model(None, image_size=self.size, weights=self.weights), resolve_profile(self.nms))


def pytorch_alone(work: Work, threads: int) -> None:
    """Files to detections in PyTorch."""
    side = work.side(threads)
    for batch in side.read(work.groups(side)):
        outputs = side.outputs([image.input for image in batch if image.input is not None])
        for image, found in zip(batch, outputs, strict=True):
            assert image.pixels is not None
            side.detections(side.candidates(found), image.scale, (image.pixels.shape[0], image.pixels.shape[1]))


def tensorflow_alone(work: Work, threads: int) -> None:
    """Files to detections in TensorFlow."""
    with ReferenceProcess("pipeline", threads=threads) as reference, open_source(work.checkpoint) as source:
        side = work.side(1)
        reference.open(
            side.config.to_dict(), lambda name: source.read(name, "ema"), "float32", source.backbone_scope,
            profile=dataclasses.asdict(side.profile),
        )  # fmt: skip
        groups = work.groups(side)
        for group in groups:
            reference.submit({"type": "images", "paths": [str(record.path.resolve()) for record in group]})
            for _ in reference.collect():
                pass


def whole(work: Work, threads: int) -> None:
    """Parity."""
    result = parity(
        ParityOptions(
            work.checkpoint, work.weights, images=work.images, image_size=work.size, limit=work.limit, nms=work.nms,
            pictures=0, threads=threads,
        )
    )  # fmt: skip
    print(f"  {result.verdict} (float64 run on {result.rounding.images} images)")


def timed(run: Callable[[Work, int], None], work: Work, threads: int) -> float:
    """Seconds."""
    started = time.perf_counter()
    run(work, threads)
    return time.perf_counter() - started


def main() -> None:
    """Print every run and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--variant", default="d0")
    parser.add_argument("--image-size", default="512")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--nms", default="numpy_gaussian")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    cores = sum(thread_shares())
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "port.pth"
        convert(given.checkpoint, weights, given.variant)
        work = Work(given.checkpoint, weights, given.images, given.image_size, given.limit, given.nms)
        for _ in range(given.runs):
            seconds = {run.__name__: timed(run, work, cores) for run in (tensorflow_alone, pytorch_alone, whole)}
            ratios.append(seconds["whole"] / max(seconds["tensorflow_alone"], seconds["pytorch_alone"]))
            print(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()), f"ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} on {cores} cores")


if __name__ == "__main__":
    main()
