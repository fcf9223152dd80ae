"""Times a training step beside effdet 0.4.1's and TensorFlow's, and the loader: images per second on the CPU.

    python benchmarks/training.py [--rounds N] [--batch-size N] [--image-size N] [--variant d0] [--threads N]

All three have the same weights, images and boxes, and the same number of threads, and do the whole step: targets,
forward, loss, backward, clipping, momentum, moving average. effdet runs its own bench, as its train.py does;
TensorFlow the reference of this project, compiled to a graph, with oneDNN. The rounds alternate, after one warm-up
each. The loader makes batches of drawn pictures (--load-side pixels) with the recipe's augmentation.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.drawn_dataset import draw_training_set  # noqa: E402
from effdet_model import EfficientDet, create_model  # noqa: E402
from training.augmentation.settings import AugmentationSettings  # noqa: E402
from training.data import DataSource, open_dataset  # noqa: E402
from training.data.loading import TrainingLoader  # noqa: E402
from training.proof.tensorflow_side import reader_of  # noqa: E402
from training.proof.trace import ProofBatch, drawn_batch  # noqa: E402
from training.recipes import recipe  # noqa: E402
from training.step import MicroBatch, TrainingStep  # noqa: E402
from training.targets import AnchorLabeler  # noqa: E402

Way = Callable[[], None]
RATE = 1e-4


def main() -> None:
    """Print images per second of every round, the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--variant", default="d0")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--load-side", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = (arguments.image_size, arguments.image_size)
    model = create_model(arguments.variant, image_size=size)
    batch = drawn_batch(model.config, arguments.batch_size, 0)
    ways = {
        "this project": our_way(model, batch),
        "effdet 0.4.1": effdet_way(model, batch, arguments.variant),
        "TensorFlow": tensorflow_way(model, batch, arguments.threads),
    }
    what = f"{arguments.variant}, {size[0]} x {size[1]}, batch {arguments.batch_size}, {arguments.threads} threads"
    print(f"{what}: images per second of a training step", flush=True)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, arguments.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            speed = arguments.batch_size / (time.perf_counter() - started)
            print(f"  {f'round {number + 1}' if number >= 0 else 'warm-up':7}  {name:13} {speed:7.2f}", flush=True)
            if number >= 0:
                speeds[name].append(speed)
    ours, effdet, tensorflow = (statistics.median(values) for values in speeds.values())
    print(
        f"median: this project {ours:.2f}, effdet 0.4.1 {effdet:.2f} ({ours / effdet:.2f} times as many), "
        f"TensorFlow {tensorflow:.2f} ({ours / tensorflow:.2f} times as many)", flush=True,
    )
    for workers in (0, arguments.threads):
        speed = loading_speed(model, arguments.batch_size, arguments.load_side, workers)
        print(f"loader, {workers} workers: {speed:.1f} images per second, {speed / ours:.1f} times what a step takes")


def our_way(model: EfficientDet, batch: ProofBatch) -> Way:
    """The recipe google of this project."""
    step = TrainingStep(copy.deepcopy(model), recipe("google"))
    labeler = AnchorLabeler(model.config)

    def way() -> None:
        targets = [labeler(boxes, classes) for boxes, classes in zip(batch.boxes, batch.classes, strict=True)]
        step([MicroBatch(batch.images, targets)], RATE)

    return way


def effdet_way(model: EfficientDet, batch: ProofBatch, variant: str) -> Way:
    """effdet's own bench, optimiser, clipping and average (train.py, c6dff77)."""
    from effdet import DetBenchTrain
    from effdet import EfficientDet as EffdetModel
    from effdet.config import get_efficientdet_config
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV2, dispatch_clip_grad

    config = get_efficientdet_config(f"tf_efficientdet_{variant}")
    config.image_size = model.config.image_size
    net = EffdetModel(config, pretrained_backbone=False)
    net.load_state_dict(model.state_dict(), strict=True)
    bench = DetBenchTrain(net).train()
    optimizer = create_optimizer_v2(bench, opt="momentum", lr=RATE, weight_decay=4e-5, momentum=0.9)
    average = ModelEmaV2(bench, decay=0.9998)
    target = {"bbox": list(batch.boxes), "cls": list(batch.classes)}

    def way() -> None:
        loss = bench(batch.images, target)["loss"]
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(bench.parameters(), 10.0, mode="norm")
        optimizer.step()
        average.update(bench)

    return way


def tensorflow_way(model: EfficientDet, batch: ProofBatch, threads: int) -> Way:
    """The reference in training, as a graph."""
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
    import tensorflow as tf

    from verify.reference.trainer.labels import label_batch
    from verify.reference.trainer.step import TrainingReference

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    trained = TrainingReference(model.config.to_dict(), {}, reader_of(model), "float32")
    images = tf.constant(batch.images.permute(0, 2, 3, 1).numpy())
    boxes, classes = ([one.numpy() for one in each] for each in (batch.boxes, batch.classes))
    trained.step(images, label_batch(trained.anchors, boxes, classes), RATE)  # makes the variables
    graph = tf.function(lambda pixels, labels: trained.step(pixels, labels, RATE)[0])

    def way() -> None:
        graph(images, label_batch(trained.anchors, boxes, classes))["loss"].numpy()

    return way


def loading_speed(model: EfficientDet, batch_size: int, side: int, workers: int) -> float:
    """Images per second of the training loader, JPEG files to batches, after the workers have begun."""
    with tempfile.TemporaryDirectory() as folder:
        data = open_dataset(DataSource(coco=draw_training_set(Path(folder), 96, 4, sizes=(side, side)), split="train"))
        loader = TrainingLoader(
            data, model.config, AugmentationSettings(style="google"), batch_size=batch_size, seed=0, workers=workers
        )
        seconds = images = 0.0
        for number in range(2):
            started = time.perf_counter()
            for batch in loader.epoch(number):
                images += len(batch.images) * (number > 0)
            seconds += (time.perf_counter() - started) * (number > 0)
        return images / seconds


if __name__ == "__main__":
    main()
