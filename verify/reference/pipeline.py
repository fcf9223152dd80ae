"""TensorFlow's way from an image file to candidates: the reference side of the parity ladder.

Written from google/automl's description (`dataloader.py`, `tf2/anchors.py`, `tf2/postprocess.py`, 6a54c87) with
TensorFlow's own ops; it shares no code with `effdet_model` and imports neither torch nor any other room.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from verify.reference.network import Reference
from verify.reference.suppression import suppress

Named = tuple[str, np.ndarray]
EQUAL = 1e-5
"""Scores this close, relatively, are equal within what a suppression's own arithmetic rounds."""


class TensorFlowPipeline:
    """One model, from files to detections, in float32; and in float64, to know what rounding does to it.

    Args:
        config: plain values with google/automl's names.
        profile: of suppression, with the field names of `effdet_model.nms_profiles.NmsProfile`.
        read: gives the array of a variable by its canonical TensorFlow name.
        backbone_scope: first part of the backbone's variable names.

    Attributes:
        used: no variables are told of; there for the process that runs it.
    """

    used: Sequence[str] = ()

    def __init__(
        self, config: Mapping[str, Any], profile: Mapping[str, Any], read: Callable[[str], np.ndarray],
        backbone_scope: str | None = None,
    ) -> None:
        import tensorflow as tf

        self.tf = tf
        self.config, self.profile = config, profile
        self._read = functools.cache(read)
        self._scope = backbone_scope
        self.model = Reference(config, self._read, "float32", backbone_scope)
        self.anchors = anchor_boxes(config)

    @functools.cached_property
    def exact(self) -> Reference:
        """The same network in float64."""
        return Reference(self.config, self._read, "float64", self._scope)

    def answer(self, request: Mapping[str, Any], array: np.ndarray | None) -> Iterator[Named]:
        """What a request asks for: "images" (`images`), "truth" (`truth`) or "suppress" (`suppressed`)."""
        if request["type"] == "images":
            return self.images(request["paths"])
        assert array is not None
        if request["type"] == "truth":
            return self.truth(array, request["scale"])
        return self.suppressed(array, request["scale"])

    def images(self, paths: Sequence[str]) -> Iterator[Named]:
        """Every stage's result of a batch of image files.

        Yields:
            for the image at position i of the paths, each name preceded by "i/":
            "refused": the reason as UTF-8 bytes, and nothing more, where TensorFlow cannot read the file;
            "decoded" uint8 [h, w, 3]; "input" float32 [H, W, 3]; "scale" float32, original pixels per input pixel;
            "class.L" and "box.L" of every level L, NHWC without N; "candidates" float32 [K, 5]: y0, x0, y1, x1, score
            in input pixels; "places" int64 [K, 2]: anchor, class index; "detections" float32 [n, 6]: y0, x0, y1, x1 in
            original pixels, score, category id.
        """
        inputs: dict[int, np.ndarray] = {}
        scales: dict[int, float] = {}
        for number, path in enumerate(paths):
            prepared = self._prepared(path)
            if isinstance(prepared, str):
                yield f"{number}/refused", np.frombuffer(prepared.encode(), np.uint8)
                continue
            pixels, inputs[number], scales[number] = prepared
            yield f"{number}/decoded", pixels
            yield f"{number}/input", inputs[number]
            yield f"{number}/scale", np.asarray(scales[number], np.float32)
        if not inputs:
            return
        outputs = _predictions(self.model, np.stack(list(inputs.values())))
        for row, number in enumerate(inputs):
            mine = {name: array[row] for name, array in outputs.items()}
            for name, found in (*mine.items(), *self._found(mine, scales[number])):
                yield f"{number}/{name}", found

    def truth(self, image: np.ndarray, scale: float) -> Iterator[Named]:
        """The network and what follows in float64, on one model input as float32 has it.

        Args:
            image: float32 [H, W, 3].

        Yields:
            "class.L", "box.L" float64; "detections" of the exact candidates, suppressed in float32.
        """
        outputs = {name: array[0] for name, array in _predictions(self.exact, image[None]).items()}
        yield from outputs.items()
        yield from (named for named in self._found(outputs, scale) if named[0] == "detections")

    def suppressed(self, table: np.ndarray, scale: float) -> Iterator[Named]:
        """TensorFlow's suppression of given candidates.

        Args:
            table: float32 [K, 6]: y0, x0, y1, x1 in input pixels, score, class index, by ascending (anchor, class).

        Yields:
            "detections" float32 [n, 6] as in `images`; "beyond": those that would come next, with the last one's score.
        """
        limit = self.profile["max_output_size"]
        longer = {**self.profile, "max_output_size": 2 * limit}
        found = self._suppress(longer, table[:, :4], table[:, 4], table[:, 5].astype(np.int64), np.float32(scale))
        kept, others = found[:limit], found[limit:]
        yield "detections", kept
        yield "beyond", others[others[:, 4] >= kept[-1, 4] * (1 - EQUAL)] if len(others) else others

    def _prepared(self, path: str) -> tuple[np.ndarray, np.ndarray, float] | str:
        """Pixels, model input and scale of a file, or why TensorFlow refuses it."""
        tf = self.tf
        try:
            pixels = decoded(tf.io.read_file(path))
            image, scale = model_input(self.config, pixels)
        except (tf.errors.OpError, ValueError) as error:
            return " ".join(str(error).split())[:300]
        return pixels.numpy(), image.numpy(), scale.numpy()

    def _found(self, outputs: Mapping[str, np.ndarray], scale: float) -> Iterator[Named]:
        """Candidates, places and detections of one image's outputs."""
        classes, boxes = ([outputs[f"{head}.{level}"] for level in self.model.levels] for head in ("class", "box"))
        corners, scores, places = self.candidates(classes, boxes)
        yield "candidates", np.column_stack((corners, scores)).astype(np.float32)
        yield "places", places
        yield "detections", self._suppress(
            self.profile, corners.astype(np.float32), scores.astype(np.float32), places[:, 1], np.float32(scale)
        )

    def _suppress(
        self, profile: Mapping[str, Any], boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, scale: Any
    ) -> np.ndarray:
        size = tuple(self.config["image_size"])
        found = suppress(profile, boxes, scores, classes, size, self.config["num_classes"])
        found[:, :4] *= scale
        return found

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
        boxes = self._decode(chosen, tf.gather(tf.constant(self.anchors, regressions.dtype), places[:, 0]))
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


def _predictions(model: Reference, images: np.ndarray) -> dict[str, np.ndarray]:
    """ "class.L" and "box.L" of every level, NHWC."""
    outputs = {}
    for name, array in model.layers(images):
        head, _, level = name.rpartition(".predict.level.")
        if head:
            outputs[f"{head.removesuffix('_net')}.{level}"] = array
    return outputs


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
