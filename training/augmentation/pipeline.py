"""All of augmentation in its order, from a decoded picture to the model's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from effdet_model.config import EfficientDetConfig
from training.augmentation import effdet, google
from training.augmentation.autoaugment import apply_policy, apply_randaug
from training.augmentation.color_jitter import color_jitter
from training.augmentation.erasing import grid_mask, random_erase
from training.augmentation.mosaic import mosaic
from training.augmentation.scene import Prepared, Scene
from training.augmentation.settings import AugmentationSettings


def augment(
    scene: Scene,
    config: EfficientDetConfig,
    settings: AugmentationSettings,
    random: np.random.Generator,
    another: Callable[[int], Scene] | None = None,
) -> Prepared:
    """The model's input for one picture.

    Args:
        random: the only source of chance.
        another: a picture of the same data for any whole number from 0 to below 2**31; needed by mosaic.
    """
    if settings.mosaic and another is not None and random.random() < settings.mosaic:
        others = [another(int(random.integers(2**31))) for _ in range(3)]
        scene = mosaic([scene, *others], config.image_size, random)
    scene = _distorted(scene, settings, random)
    flip = settings.hflip > 0 and bool(random.random(dtype=np.float32) > 1 - settings.hflip)
    place = _google if settings.style == "google" else _effdet
    prepared = place(scene, config, settings, random, flip)
    if settings.random_erase and random.random() < settings.random_erase:
        prepared = random_erase(prepared, settings.random_erase_count, settings.random_erase_mode, random)
    return _bounded(prepared, settings)


def _distorted(scene: Scene, settings: AugmentationSettings, random: np.random.Generator) -> Scene:
    """What happens to the picture before it is flipped and scaled; in google/automl's order."""
    if settings.gridmask and random.random() < settings.gridmask:
        scene = scene._replace(pixels=grid_mask(scene.pixels, random))
    if settings.autoaugment_policy is not None:
        size = scene.pixels.shape[0], scene.pixels.shape[1]
        boxes = google.fractions(scene.boxes, size)
        if settings.autoaugment_policy == "randaug":
            pixels, boxes = apply_randaug(scene.pixels, boxes, settings.num_layers, settings.magnitude, random)
        else:
            pixels, boxes = apply_policy(scene.pixels, boxes, settings.autoaugment_policy, random)
        sides = np.array([size[0], size[1], size[0], size[1]], np.float32)
        scene = Scene(pixels, boxes * sides, scene.classes)
    if settings.color_jitter:
        scene = scene._replace(pixels=color_jitter(scene.pixels, settings.color_jitter, random))
    return scene


def _google(
    scene: Scene, config: EfficientDetConfig, settings: AugmentationSettings, random: np.random.Generator, flip: bool
) -> Prepared:
    size = scene.pixels.shape[0], scene.pixels.shape[1]
    if settings.resizes_only:
        placement = google.plain_placement(size, config.image_size)
    else:
        low, high = np.float32(settings.jitter_min), np.float32(settings.jitter_max)
        draws = random.random(3, dtype=np.float32)
        factor = draws[0] * (high - low) + low
        placement = google.random_placement(size, config.image_size, factor, draws[1], draws[2])
    return google.place(scene, config, flip, placement, _normalized_fill(config, settings))


def _effdet(
    scene: Scene, config: EfficientDetConfig, settings: AugmentationSettings, random: np.random.Generator, flip: bool
) -> Prepared:
    size = scene.pixels.shape[0], scene.pixels.shape[1]
    color = fill_color(config, settings)
    if settings.resizes_only:
        return effdet.place(scene, config, flip, effdet.plain_resize(size, config.image_size), fill=color)
    factor = settings.jitter_min + (settings.jitter_max - settings.jitter_min) * random.random()
    resize = effdet.random_resize(size, config.image_size, factor, random.random(), random.random())
    interpolation = effdet.INTERPOLATIONS[int(random.integers(2))]
    return effdet.place(scene, config, flip, resize, interpolation, color)


def fill_color(config: EfficientDetConfig, settings: AugmentationSettings) -> tuple[int, int, int]:
    """RGB of what no picture covers, as 8-bit numbers."""
    given: Any = config.mean_rgb if settings.fill_color == "mean" else settings.fill_color
    red, green, blue = (min(255, max(0, round(float(value)))) for value in np.broadcast_to(given, (3,)))
    return red, green, blue


def _normalized_fill(config: EfficientDetConfig, settings: AugmentationSettings) -> npt.NDArray[np.float32] | None:
    """The normalised fill colour [3, 1, 1]; None for the mean, which is 0."""
    if settings.fill_color == "mean":
        return None
    color: Any = np.asarray(settings.fill_color, np.float32)
    mean, deviation = (np.asarray(each, np.float32) for each in (config.mean_rgb, config.stddev_rgb))
    return np.broadcast_to((color - mean) / deviation, (3,)).reshape(3, 1, 1)


def _bounded(prepared: Prepared, settings: AugmentationSettings) -> Prepared:
    """Without boxes that are too small or too many."""
    boxes, classes = prepared.boxes, prepared.classes
    if settings.min_box_side:
        kept = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) >= settings.min_box_side
        boxes, classes = boxes[kept], classes[kept]
    if settings.max_instances is not None:
        boxes, classes = boxes[: settings.max_instances], classes[: settings.max_instances]
    return prepared._replace(boxes=boxes, classes=classes)
