"""What TensorFlow itself makes of the test cases: run once, in a process of its own.

As a program it writes one .npz; `tensorflow_results()` runs it and loads that file.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESIZE_CASES = [
    ((480, 640), (256, 256)),
    ((96, 260), (128, 128)),
    ((33, 77), (128, 256)),
    ((300, 200), (320, 320)),
    ((128, 128), (128, 128)),
    ((1, 7), (64, 64)),
    ((500, 333), (511, 511)),
]
NMS_SEEDS = range(40)
GRAPH_PROFILES = ("graph_gaussian", "graph_hard")
IMAGENET = {"mean_rgb": [0.485 * 255, 0.456 * 255, 0.406 * 255], "stddev_rgb": [0.229 * 255, 0.224 * 255, 0.225 * 255]}


def resize_image(number: int) -> np.ndarray:
    """The uint8 picture of one of RESIZE_CASES."""
    height, width = RESIZE_CASES[number][0]
    return np.random.RandomState(number).randint(0, 256, (height, width, 3)).astype(np.uint8)


def logits_case() -> np.ndarray:
    """float32 [1200, 7] with many equal values."""
    return (np.random.RandomState(5).randint(-200, 40, (1200, 7)) / 20).astype(np.float32)


@functools.cache
def tensorflow_results() -> dict[str, np.ndarray]:
    """Name to array, of everything below."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "results.npz"
        environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="-1")
        command = [sys.executable, "-m", "tests.tensorflow_results", str(target)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(target) as results:
            return dict(results)


def _decoded(tf: Any) -> Iterator[tuple[str, np.ndarray]]:
    from tests.image_cases import image_files
    from verify.reference.pipeline import decoded

    for name, data in image_files().items():
        try:
            pixels = decoded(data).numpy()
        except tf.errors.InvalidArgumentError:
            pixels = np.zeros(0, np.uint8)
        yield f"decode.{name}", pixels
    accurate = tf.io.decode_jpeg(image_files()["jpeg-2-95-False"], dct_method="INTEGER_ACCURATE")
    yield "accurate", accurate.numpy()


def _resized(tf: Any) -> Iterator[tuple[str, np.ndarray]]:
    from verify.reference.pipeline import model_input

    for number, (_, size) in enumerate(RESIZE_CASES):
        config = {"image_size": size, "scale_range": False, **IMAGENET}
        image, scale = model_input(config, tf.constant(resize_image(number)))
        yield f"resize.{number}", image.numpy()
        yield f"scale.{number}", scale.numpy()


def _suppressed(tf: Any) -> Iterator[tuple[str, np.ndarray]]:
    from effdet_model.nms_profiles import PROFILES
    from tests.nms_cases import nms_case
    from verify.reference.suppression import graph_op, suppress

    for seed in NMS_SEEDS:
        boxes, scores, classes = nms_case(seed, degenerate=False)
        for name in GRAPH_PROFILES:
            yield f"{name}.{seed}", np.stack(graph_op(asdict(PROFILES[name]), boxes, scores))
        one_hot = np.zeros((len(scores), 90), np.float32)
        one_hot[np.arange(len(scores)), classes] = scores
        unclipped = asdict(replace(PROFILES["combined"], score_threshold=0.0, clip=False))
        everywhere = np.repeat(boxes, 90, axis=0)
        pairs = np.tile(np.arange(90), len(boxes))
        yield f"combined.{seed}", suppress(unclipped, everywhere, one_hot.ravel(), pairs, (64, 64), 90)


def _scored(tf: Any) -> Iterator[tuple[str, np.ndarray]]:
    logits = logits_case()
    yield "top_k", tf.math.top_k(logits.reshape(1, -1), k=500, sorted=True).indices.numpy()[0]
    yield "sigmoid", tf.math.sigmoid(logits).numpy()
    yield "exp", tf.exp(logits / 4).numpy()
    yield "argmax", tf.math.argmax(logits, axis=-1).numpy()


def main() -> None:
    """Write everything to the file named on the command line."""
    import tensorflow as tf

    parts = (_decoded, _resized, _suppressed, _scored)
    arrays: dict[str, Any] = {name: array for part in parts for name, array in part(tf)}
    np.savez(sys.argv[1], **arrays)


if __name__ == "__main__":
    main()
