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
GRAPH_OPTIONS = {"graph_gaussian": (0.5, 0.001, 0.25), "graph_hard": (0.5, -np.inf, 0.0)}


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
        command = [sys.executable, "-m", "tests.tensorflow_pipeline", str(target)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(target) as results:
            return dict(results)


def _decoded(tf: Any) -> Iterator[tuple[str, np.ndarray]]:
    from tests.image_cases import image_files

    for name, data in image_files().items():
        try:
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
        except tf.errors.InvalidArgumentError:
            pixels = np.zeros(0, np.uint8)
        yield f"decode.{name}", pixels
    accurate = tf.io.decode_jpeg(image_files()["jpeg-2-95-False"], dct_method="INTEGER_ACCURATE")
    yield "accurate", accurate.numpy()


def _resized(tf: Any) -> Iterator[tuple[str, np.ndarray]]:
    """google/automl's dataloader.InputProcessor, step by step, with the mean and deviation of ImageNet."""
    mean = tf.constant([0.485 * 255, 0.456 * 255, 0.406 * 255], shape=(1, 1, 3), dtype=tf.float32)
    deviation = tf.constant([0.229 * 255, 0.224 * 255, 0.225 * 255], shape=(1, 1, 3), dtype=tf.float32)
    for number, ((height, width), size) in enumerate(RESIZE_CASES):
        image = (tf.cast(resize_image(number), tf.float32) - mean) / deviation
        original = tf.constant([height, width], tf.float32)
        scale = tf.reduce_min(tf.constant(size, tf.float32) / original)
        scaled = tf.cast(original * scale, tf.int32)
        resized = tf.image.resize(image, scaled)
        yield f"resize.{number}", tf.image.pad_to_bounding_box(resized, 0, 0, *size).numpy()
        yield f"scale.{number}", (1.0 / scale).numpy()


def _suppressed(tf: Any) -> Iterator[tuple[str, np.ndarray]]:
    from tests.nms_cases import nms_case

    for seed in NMS_SEEDS:
        boxes, scores, classes = nms_case(seed, degenerate=False)
        for name, (overlap, score, sigma) in GRAPH_OPTIONS.items():
            indices, final, _ = tf.raw_ops.NonMaxSuppressionV5(
                boxes=boxes,
                scores=scores,
                max_output_size=100,
                iou_threshold=overlap,
                score_threshold=score,
                soft_nms_sigma=sigma,
            )
            yield f"{name}.{seed}", np.stack((indices.numpy(), final.numpy()))
        one_hot = np.zeros((1, len(scores), 90), np.float32)
        one_hot[0, np.arange(len(scores)), classes] = scores
        kept, final, ids, count = tf.image.combined_non_max_suppression(
            boxes[None, :, None], one_hot, 100, 100, score_threshold=0.0, clip_boxes=False
        )
        rows = np.concatenate((kept[0], final[0][:, None], ids[0][:, None]), axis=1)
        yield f"combined.{seed}", rows[: int(count[0])]


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
