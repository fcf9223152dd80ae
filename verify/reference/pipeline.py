"""TensorFlow's way from an image file to candidates: the reference side of the parity ladder.

Written from google/automl's description (`dataloader.py`, `tf2/anchors.py`, `tf2/postprocess.py`, 6a54c87) with
TensorFlow's own ops; it shares no code with `effdet_model` and imports neither torch nor any other room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from verify.reference.network import Reference
from verify.reference.suppression import suppress

PROFILE_KEY = "nms_profile"

Named = tuple[str, np.ndarray]


class TensorFlowPipeline:
    """One model, from files to detections.

    Args:
        config: plain values with google/automl's names (`EfficientDetConfig.to_dict()`), and under `PROFILE_KEY` the
            suppression profile, field by field.
        read: gives the array of a variable by its canonical TensorFlow name.
        backbone_scope: first part of the backbone's variable names.

    Attributes:
        used: no variables are told of; there for the process that runs it.
    """

    used: Sequence[str] = ()

    def __init__(
        self, config: Mapping[str, Any], read: Callable[[str], np.ndarray], backbone_scope: str | None = None
    ) -> None:
        import tensorflow as tf

        self.tf = tf
        self.config = config
        self.model = Reference(config, read, "float32", backbone_scope)
        self.profile = config[PROFILE_KEY]
        self.anchors = anchor_boxes(config)

    def layers(self, images: np.ndarray) -> Iterator[Named]:
        """Every stage's result for one image, by name, in order.

        Args:
            images: the image file's path as UTF-8 bytes, uint8.

        Yields:
            "refused": the reason as UTF-8 bytes, and nothing more, where TensorFlow cannot read the file;
            "decoded" uint8 [h, w, 3]; "input" float32 [H, W, 3]; "scale" float32, original pixels per input pixel;
            "class.L" and "box.L" of every level L, NHWC without N; "candidates" float32 [K, 5]: y0, x0, y1, x1, score
            in input pixels; "places" int64 [K, 2]: anchor, class index; "detections" float32 [n, 6]: y0, x0, y1, x1 in
            original pixels, score, category id.
        """
        tf, profile = self.tf, self.profile
        path = images.tobytes().decode()
        try:
            pixels = decoded(tf.io.read_file(path))
        except (tf.errors.OpError, ValueError) as error:
            yield "refused", np.frombuffer(" ".join(str(error).split())[:300].encode(), np.uint8)
            return
        yield "decoded", pixels.numpy()
        image, scale = model_input(self.config, pixels)
        yield "input", image.numpy()
        yield "scale", np.asarray(scale.numpy(), np.float32)
        class_outputs: list[np.ndarray] = []
        box_outputs: list[np.ndarray] = []
        for name, array in self.model.layers(image.numpy()[None]):
            head, _, level = name.rpartition(".predict.level.")
            if head:
                (class_outputs if head == "class_net" else box_outputs).append(array)
                yield f"{head.removesuffix('_net')}.{level}", array[0]
        boxes, scores, places = self.candidates(class_outputs, box_outputs)
        yield "candidates", np.column_stack((boxes, scores)).astype(np.float32)
        yield "places", places
        size = tuple(self.config["image_size"])
        found = suppress(profile, boxes, scores, places[:, 1], size, self.config["num_classes"])
        found[:, :4] *= scale.numpy()
        yield "detections", found

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[Named]:
        """Nothing: faults are looked for layer by layer, by the diff."""
        return iter(())

    def candidates(
        self, class_outputs: list[np.ndarray], box_outputs: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(boxes yxyx [K, 4], scores [K], (anchor, class) [K, 2]) before suppression, in ascending order of place.

        For the combined profile (no limit on candidates) all pairs of anchor and class are candidates.
        """
        tf, classes = self.tf, self.config["num_classes"]
        logits = tf.concat([tf.reshape(level, [-1, classes]) for level in class_outputs], 0)
        regressions = tf.concat([tf.reshape(level, [-1, 4]) for level in box_outputs], 0)
        limit = self.profile["max_candidates"]
        pairs = int(logits.shape[0]) * classes
        if limit == 0:
            best = tf.argmax(logits, -1, output_type=tf.int64)
            places = tf.stack([tf.range(int(logits.shape[0]), dtype=tf.int64), best], 1)
        else:
            count = pairs if limit is None else min(limit, pairs)
            flat = tf.math.top_k(tf.reshape(logits, [-1]), k=count, sorted=True).indices
            flat = tf.sort(tf.cast(flat, tf.int64))
            places = tf.stack([flat // classes, flat % classes], 1)
        chosen = tf.gather(regressions, places[:, 0])
        boxes = self._decode(chosen, tf.gather(tf.constant(self.anchors), places[:, 0]))
        scores = tf.math.sigmoid(tf.gather_nd(logits, places))
        return boxes.numpy(), scores.numpy(), places.numpy()

    def _decode(self, regressions: Any, anchors: Any) -> Any:
        tf = self.tf
        top, left, bottom, right = tf.unstack(anchors, axis=-1)
        move_y, move_x, grow_y, grow_x = tf.unstack(regressions, axis=-1)
        height, width = bottom - top, right - left
        new_height, new_width = tf.math.exp(grow_y) * height, tf.math.exp(grow_x) * width
        middle_y = move_y * height + (top + bottom) / 2
        middle_x = move_x * width + (left + right) / 2
        return tf.stack(
            [
                middle_y - new_height / 2.0,
                middle_x - new_width / 2.0,
                middle_y + new_height / 2.0,
                middle_x + new_width / 2.0,
            ],
            axis=-1,
        )


def decoded(data: Any) -> Any:
    """uint8 [h, w, 3] of an image file's bytes; tf.errors.OpError or ValueError where TensorFlow refuses it."""
    import tensorflow as tf

    return tf.io.decode_image(data, channels=3, expand_animations=False)


def model_input(config: Mapping[str, Any], pixels: Any) -> tuple[Any, Any]:
    """(float32 [H, W, 3], original pixels per input pixel): normalise, resize, pad with zeros."""
    import tensorflow as tf

    high, wide = config["image_size"]
    image = tf.image.convert_image_dtype(pixels, tf.uint8)
    image = tf.cast(image, tf.float32) - tf.constant(config["mean_rgb"], tf.float32)
    image = image / tf.constant(config["stddev_rgb"], tf.float32)
    height = tf.cast(tf.shape(pixels)[0], tf.float32)
    width = tf.cast(tf.shape(pixels)[1], tf.float32)
    ratio = tf.minimum(tf.cast(high, tf.float32) / height, tf.cast(wide, tf.float32) / width)
    size = [tf.cast(height * ratio, tf.int32), tf.cast(width * ratio, tf.int32)]
    image = tf.image.resize(image, size, method=tf.image.ResizeMethod.BILINEAR)
    image = tf.image.pad_to_bounding_box(image, 0, 0, high, wide)
    if config["scale_range"]:
        image = image * 2.0 / 255 - 1.0
    return image, 1.0 / ratio


def anchor_boxes(config: Mapping[str, Any]) -> np.ndarray:
    """float32 [anchors, 4], y0, x0, y1, x1: level by level, row by row, place by place, octave by octave."""
    height, width = config["image_size"]
    levels = range(config["min_level"], config["max_level"] + 1)
    scales = config["anchor_scale"]
    if not isinstance(scales, (list, tuple)):
        scales = [scales] * len(levels)
    boxes = []
    for level, scale in zip(levels, scales, strict=True):
        rows, columns = height, width
        for _ in range(level):
            rows, columns = (rows - 1) // 2 + 1, (columns - 1) // 2 + 1
        step_y, step_x = height / rows, width / columns
        for y in np.arange(step_y / 2, height, step_y):
            for x in np.arange(step_x / 2, width, step_x):
                boxes.append([y, x, step_y * scale, step_x * scale])
    centers = np.asarray(boxes, np.float64)[:, None]
    shapes = []
    for octave in range(config["num_scales"]):
        for aspect in config["aspect_ratios"]:
            if isinstance(aspect, (list, tuple)):
                wide, high = aspect
            else:
                wide = math.sqrt(aspect)
                high = 1.0 / wide
            shapes.append([2 ** (octave / float(config["num_scales"])), high, wide])
    growth = np.asarray(shapes, np.float64)[None]
    half_y = centers[..., 2] * growth[..., 0] * growth[..., 1] / 2.0
    half_x = centers[..., 3] * growth[..., 0] * growth[..., 2] / 2.0
    y, x = centers[..., 0], centers[..., 1]
    corners = np.stack([y - half_y, x - half_x, y + half_y, x + half_x], -1)
    return corners.reshape(-1, 4).astype(np.float32)
