"""Times `evaluate` beside effdet 0.4.1: images per second on the CPU, from JPEG files to detections.

    python benchmarks/evaluate.py [--images N] [--rounds N] [--batch-size N] [--workers N] [--variant d0]

Both have the same weights (random, with the class bias that training starts from), the same JPEG images of COCO's
size, drawn here, the same batch size, number of workers and threads, and soft-NMS on. effdet runs its own dataset,
loader and bench, `bench(input, img_info)`, as its validate.py does. The rounds alternate, after one warm-up each;
loading of weights and the COCO metrics are not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.drawn_images import draw_dataset  # noqa: E402
from effdet_model import create_model  # noqa: E402
from porting.weights.files import write_weights  # noqa: E402
from verify.evaluation.run import EvaluateOptions, evaluate  # noqa: E402


def main() -> None:
    """Print images per second of every round, the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--variant", default="d0")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        weights = prepare(root, arguments.variant, arguments.images)
        ways = {
            "evaluate": evaluate_way(root, weights, arguments.batch_size, arguments.workers),
            "effdet 0.4.1": effdet_way(root, weights, arguments.variant, arguments.batch_size, arguments.workers),
        }
        threads = torch.get_num_threads()
        print(f"{arguments.variant}, {arguments.images} images, {threads} threads, images per second:", flush=True)
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(-1, arguments.rounds):
            for name, way in ways.items():
                speed = arguments.images / way()
                print(f"  {f'round {number + 1}' if number >= 0 else 'warm-up':7}  {name:13} {speed:7.2f}", flush=True)
                if number >= 0:
                    speeds[name].append(speed)
    ours, theirs = (statistics.median(values) for values in speeds.values())
    print(f"median: evaluate {ours:.2f}, effdet 0.4.1 {theirs:.2f}: {ours / theirs:.1f} times as many")


def prepare(root: Path, variant: str, images: int) -> Path:
    """Draw the dataset in COCO's layout and write the weights."""
    annotations = draw_dataset(root, images, sizes=(480, 640), suffixes=(".jpg",))
    (root / "val2017").symlink_to(root / "images")
    (root / "annotations").mkdir()
    annotations.rename(root / "annotations" / "instances_val2017.json")
    torch.manual_seed(0)
    model = create_model(variant)
    metadata = {"format_version": 1, "variant": variant, "config": model.config.to_dict()}
    write_weights(root / "weights.pth", model.state_dict(), metadata)
    return root / "weights.pth"


def evaluate_way(root: Path, weights: Path, batch_size: int, workers: int) -> Callable[[], float]:
    """This project's `evaluate`, as the command line runs it."""
    options = EvaluateOptions(
        weights=weights, coco=root, device="cpu", batch_size=batch_size, workers=workers,
        detections=root / "detections.json",
    )  # fmt: skip

    def run() -> float:
        result = evaluate(options)
        assert result is not None and result.detections > 0
        return result.seconds

    return run


def effdet_way(root: Path, weights: Path, variant: str, batch_size: int, workers: int) -> Callable[[], float]:
    """effdet's dataset, loader and bench with the same weights; on the CPU its loader gives uint8."""
    import effdet
    from effdet.data import create_dataset, create_loader
    from effdet.data.transforms import transforms_coco_eval

    bench = effdet.create_model(
        f"tf_efficientdet_{variant}", bench_task="predict", pretrained=False, pretrained_backbone=False, soft_nms=True
    )
    bench.model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    bench.eval()
    size = tuple(bench.config.image_size)
    mean, deviation = (
        255 * torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )

    def run() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = create_dataset("coco", root, "val")
        started = time.monotonic()
        loader = create_loader(
            dataset, input_size=(3, *size), batch_size=batch_size, use_prefetcher=False,
            num_workers=workers, transform_fn=transforms_coco_eval(size, use_prefetcher=True),
        )  # fmt: skip
        found = 0
        with torch.no_grad():
            for images, target in loader:
                inputs = images.float().sub_(mean).div_(deviation)
                found += len(bench(inputs, img_info=target).flatten(0, 1))
        assert found > 0
        return time.monotonic() - started

    return run


if __name__ == "__main__":
    main()
