"""Times the network of every engine beside TensorFlow's, on the CPU: images per second over TensorFlow's.

    python -m benchmarks.forward [--models d0 lite0 d2] [--batches 1 8] [--rounds N] [--engines NAME ...]

TensorFlow runs this project's reference network, which reads the checkpoint, as one `tf.function` with all variables as
constants, so that its optimizer folds and fuses what it can, in a process of its own. Both have the same synthetic
checkpoint, the same noise and as many threads as there are cores. They take turns: a number is the median over the
rounds of the quotient of two neighbours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("exact", "torch", "compile", "onnxruntime", "openvino")
LEAST_SECONDS = 1.0
"""Of one turn, in which the network runs as often as that takes."""


def main() -> None:
    """Print a line per model and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["d0", "lite0", "d2"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--engines", nargs="+", default=[*ENGINES, "effdet"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=2, metavar=("CHECKPOINT", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve, arguments.batch)
        return
    print(f"{'TensorFlow = 1':24}" + "".join(f"{name:>13}" for name in arguments.engines) + "   TensorFlow", flush=True)
    for model in arguments.models:
        for batch in arguments.batches:
            row, images = measure(model, batch, arguments.engines, arguments.rounds)
            label = f"{model} batch {batch}"
            print(f"{label:24}" + "".join(f"{value:13.2f}" for value in row) + f"{images:9.2f}/s", flush=True)


def measure(variant: str, batch: int, engines: list[str], rounds: int) -> tuple[list[float], float]:
    """(speed of every engine over TensorFlow's, TensorFlow's images per second)."""
    import torch

    from demo.synthetic import write_synthetic_checkpoint
    from effdet_model import create_model
    from effdet_model.engines import create_engine
    from porting.convert import convert

    with tempfile.TemporaryDirectory() as folder:
        prefix = write_synthetic_checkpoint(variant, Path(folder) / f"efficientdet-{variant}", momentum=False)
        weights = convert(prefix, Path(folder) / f"{variant}.pth", variant).path
        model = create_model(weights=weights)
        images = torch.from_numpy(noise(batch, model.config.image_size)).permute(0, 3, 1, 2)
        ways: list[Callable[[], object]] = []
        for name in engines:
            if name == "effdet":
                ways.append(_bound(_effdet(variant, model), images.contiguous()))
            else:
                engine = create_engine(name, model, weights=weights, batch=batch, channels_last=True)
                ways.append(_bound(engine, images))
        with _tensorflow(prefix, variant, batch) as turn, torch.inference_mode():
            quotients: list[list[float]] = [[] for _ in ways]
            speeds = []
            for _ in range(rounds):
                for way, found in zip(ways, quotients, strict=True):
                    theirs = turn()
                    found.append(theirs / seconds(way))
                    speeds.append(batch / theirs)
    return [statistics.median(found) for found in quotients], statistics.median(speeds)


def noise(batch: int, image_size: tuple[int, int]) -> np.ndarray:
    """float32 [N, H, W, 3]."""
    return np.random.RandomState(0).standard_normal((batch, *image_size, 3)).astype(np.float32)


def seconds(run: Callable[[], object]) -> float:
    """Of one call, the mean over a turn; the first call is not timed."""
    run()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < LEAST_SECONDS:
        run()
        calls += 1
    return (time.perf_counter() - started) / calls


def _bound(engine: Callable[[Any], object], images: Any) -> Callable[[], object]:
    return lambda: engine(images)


def _effdet(variant: str, model: Any) -> Callable[[Any], object]:
    """effdet 0.4.1's network with the same weights, as its own validation runs it."""
    import effdet

    theirs = effdet.create_model(f"tf_efficientdet_{variant}", pretrained=False, pretrained_backbone=False)
    theirs.load_state_dict(model.state_dict(), strict=True)
    network: Callable[[Any], object] = theirs.eval()
    return network


class _tensorflow:  # noqa: N801 - used as a function
    """The other process: called, it takes a turn and gives the seconds of one call."""

    def __init__(self, checkpoint: Path, variant: str, batch: int) -> None:
        command = [sys.executable, "-m", "benchmarks.forward", "--serve", str(checkpoint), variant]
        self.process = subprocess.Popen(
            [*command, "--batch", str(batch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip

    def __enter__(self) -> Callable[[], float]:
        self._turn()  # which waits for the start
        return self._turn

    def _turn(self) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("turn\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve(checkpoint: str, variant: str, batch: int) -> None:
    """The TensorFlow process: for every line of input a turn, and its seconds as a line of output."""
    import tensorflow as tf

    from effdet_model.variants import get_config
    from porting.checkpoint.sources import open_source

    tf.config.threading.set_intra_op_parallelism_threads(os.cpu_count() or 1)
    config = get_config(variant).to_dict()
    with open_source(checkpoint) as source:
        network = frozen(config, lambda name: source.read(name, "ema"), source.backbone_scope)
        images = tf.constant(noise(batch, config["image_size"]))
        for _ in sys.stdin:
            print(seconds(lambda: [level.numpy() for level in network(images).values()]), flush=True)


def frozen(config: dict[str, Any], read: Callable[[str], np.ndarray], scope: str | None) -> Any:
    """The reference network as a graph whose variables are constants: NHWC images -> levels by name."""
    import tensorflow as tf

    from verify.reference.network import Reference

    class Traced(Reference):
        """Gives tensors while it is traced."""

        def _layer(self, name: str, compute: Callable[[], Any]) -> Iterator[Any]:  # type: ignore[override]
            out = compute()
            yield name, out
            return out

        def predictions(self, images: Any) -> dict[str, Any]:
            """All predictions."""
            return {name: out for name, out in self._layers_of(images) if ".predict.level." in name}

    return tf.function(Traced(config, read, "float32", scope).predictions)


if __name__ == "__main__":
    main()
