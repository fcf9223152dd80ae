"""Make data/official_augmentation.npz: pictures and boxes as google/automl's own dataloader changes them.

    python -m tests.training.make_official_augmentation CLONE/efficientdet

Written with TensorFlow 2.21 and google/automl 6a54c87 on a CPU. Random numbers are replaced by those of the cases.
Of TensorFlow Addons, which is no longer made, the three functions that are needed are written here after its
documentation: they fill in the transforms that TensorFlow's own operation takes.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from tests.training.augmentation_cases import CENTER, GEOMETRY, OPERATIONS, Geometry, boxes, picture

TARGET = Path(__file__).parent / "data" / "official_augmentation.npz"
NOT_NEEDED = ("tf2", "tf2.anchors", "object_detection.tf_example_decoder")
MEAN, DEVIATION = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
STEP = 5
"""Every so many numbers of a picture are kept."""


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    for name in NOT_NEEDED:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["tf2"].anchors = sys.modules["tf2.anchors"]  # type: ignore[attr-defined]
    sys.modules["utils"] = types.ModuleType("utils")
    sys.modules["utils"].parse_image_size = lambda size: size  # type: ignore[attr-defined]
    addons = types.ModuleType("tensorflow_addons")
    addons.image = types.SimpleNamespace(rotate=_rotate, translate=_translate, transform=_transform)  # type: ignore[attr-defined]
    sys.modules["tensorflow_addons"] = addons
    stored: dict[str, np.ndarray] = {}
    for name, case in GEOMETRY.items():
        image, placed, classes = _geometry(case)
        stored[f"{name}|image"] = image.transpose(2, 0, 1).reshape(-1)[::STEP]
        stored[f"{name}|boxes"], stored[f"{name}|classes"] = placed, classes
    for name, numbers in OPERATIONS.items():
        image, moved = _operation(name.split()[0], numbers)
        stored[f"{name}|image"] = image
        if moved is not None:
            stored[f"{name}|boxes"] = moved
    np.savez_compressed(TARGET, **stored)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


def _geometry(case: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import dataloader
    import tensorflow as tf

    pixels, sides = picture(case.size), np.array([*case.size, *case.size], np.float64)
    fractions = (boxes(case.size).astype(np.float64) / sides).astype(np.float32)
    classes = np.arange(1, len(fractions) + 1, dtype=np.float32).reshape(-1, 1)
    processor = dataloader.DetectionInputProcessor(
        tf.constant(pixels), case.image_size, tf.constant(fractions), tf.constant(classes)
    )
    processor.normalize_image(MEAN, DEVIATION)
    drawn = iter([1.0 if case.flip else 0.0, case.factor, case.shift_y, case.shift_x])
    tf.random.uniform = tf.compat.v1.random_uniform = lambda *_, **__: tf.constant(next(drawn), tf.float32)
    if case.factor is None:
        processor.set_scale_factors_to_output_size()
    else:
        processor.random_horizontal_flip()
        processor.set_training_random_scale_factors(0.1, 2.0)
    image = processor.resize_and_crop_image()
    placed, kept = processor.resize_and_crop_boxes()
    return image.numpy(), placed.numpy(), kept.numpy().reshape(-1).astype(np.int64)


def _operation(name: str, numbers: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """The changed picture, and boxes as fractions where the operation moves them."""
    import tensorflow as tf
    from aug import autoaugment

    size = 19, 26
    image, fractions = tf.constant(picture(size, 3)), tf.constant(boxes(size, 3) / np.float32([*size, *size]))
    grey = tf.constant([128, 128, 128], tf.uint8)
    if name == "cutout":
        drawn = iter(CENTER)
        tf.compat.v1.random_uniform = lambda *_, **__: tf.constant(next(drawn), tf.int32)
        return autoaugment.cutout(image, *numbers, replace=tf.constant(128, tf.uint8)).numpy(), None
    amount = [tf.constant(number, tf.float32) for number in numbers]
    if name == "rotate":
        changed, moved = autoaugment.rotate_with_bboxes(image, fractions, *amount, grey)
    elif name.startswith("shear"):
        changed, moved = autoaugment.shear_with_bboxes(image, fractions, *amount, grey, name.endswith("x"))
    elif name.startswith("translate"):
        changed, moved = autoaugment.translate_bbox(image, fractions, *amount, grey, name.endswith("x"))
    else:
        return getattr(autoaugment, name)(image, *numbers).numpy(), None
    return changed.numpy(), moved.numpy()


def _transform(image: Any, numbers: Any, interpolation: str = "NEAREST") -> Any:
    import tensorflow as tf

    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None], transforms=tf.cast(tf.stack(numbers), tf.float32)[None], output_shape=tf.shape(image)[:2],
        fill_value=0.0, interpolation=interpolation, fill_mode="CONSTANT",
    )[0]  # fmt: skip


def _translate(image: Any, move: Any) -> Any:
    return _transform(image, [1.0, 0.0, -move[0], 0.0, 1.0, -move[1], 0.0, 0.0])


def _rotate(image: Any, angle: Any, interpolation: str = "NEAREST") -> Any:
    import tensorflow as tf

    height, width = (tf.cast(tf.shape(image)[axis] - 1, tf.float32) for axis in (0, 1))
    cos, sin = tf.cos(angle), tf.sin(angle)
    x_offset = (width - (cos * width - sin * height)) / 2.0
    y_offset = (height - (sin * width + cos * height)) / 2.0
    return _transform(image, [cos, -sin, x_offset, sin, cos, y_offset, 0.0, 0.0], interpolation)


if __name__ == "__main__":
    main()
