"""Images in, detections out: decoding, preprocessing, model and suppression behind one call."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from effdet_model.anchors import anchors_from_config
from effdet_model.decoding import decode_image, rgb_pixels
from effdet_model.devices import usable_device
from effdet_model.engines import CurrentEngine
from effdet_model.errors import InputError
from effdet_model.field_types import number, whole
from effdet_model.labels import category_name, resolve_label_map
from effdet_model.nms import postprocess
from effdet_model.nms_profiles import NmsProfile, profile_from_config
from effdet_model.preprocessing import preprocess

ImageLike = npt.NDArray[np.uint8] | Tensor | Image.Image | str | os.PathLike[str]


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best score first.

    boxes_xyxy: float32 [n, 4], (x0, y0, x1, y1) in pixels of the original image, not clipped to it;
    scores: float32 [n]; category_ids: int64 [n], COCO ids for the published weights; names: their names.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """The detections whose score is at least `score`."""
        kept = np.flatnonzero(self.scores >= score)
        names = [self.names[index] for index in kept]
        return Detections(self.boxes_xyxy[kept], self.scores[kept], self.category_ids[kept], names)


class Detector:
    """A model with everything around it: `Detector(model)(["a.jpg", array])` gives a list of `Detections`.

    The caller's model stays as it is. It is looked at anew in every call, so a detector made in training sees the
    weights, device and dtype of the moment; layers in training mode are in eval mode within the call only, which no
    other thread may use for training meanwhile. What runs is the model's inference form where that was found to give
    what the model gives, else the model (`engine="exact"`: always the model). float64, float16 and bfloat16 models
    work; boxes and scores are then computed from their outputs in float32.

    Attributes:
        model: what runs: the given one without DataParallel, DistributedDataParallel or an averaging wrapper.
        config: of the model. profile: of suppression.
    """

    def __init__(
        self,
        model: nn.Module,
        nms: str | NmsProfile | None = None,
        *,
        nms_configs: Mapping[str, Any] | None = None,
        score_threshold: float = 0.0,
        batch_size: int = 8,
        device: str | torch.device | None = None,
        label_map: str | Mapping[Any, str] | None = None,
        accurate_dct: bool = False,
        engine: str | None = None,
    ) -> None:
        """
        Args:
            model: as `create_model` makes it, with `.config`.
            nms: a name of `nms_profiles.PROFILES`, or a profile of one's own, which holds without the config; None:
                numpy_gaussian, with what the config's nms_configs set.
            nms_configs: thresholds and sizes that replace the profile's and the config's, names as in google/automl.
            score_threshold: detections with lower scores are left out, from 0 (none) to 1.
            batch_size: images that go through the model at once.
            device: where to run; if the model is elsewhere, a copy of it as it is now. None: where the model is.
            label_map: names of the categories; None: the configuration's own.
            accurate_dct: decode JPEG files with the exact DCT instead of TensorFlow's default.
            engine: what runs the network, see `effdet_model.engines.create_engine`; None: its `default_engine`.

        Raises:
            InputError: not such a model; a profile, nms_configs, label map or device that is unknown or does not fit;
                a batch size below 1, or a threshold outside 0 to 1.
        """
        self.batch_size = whole(1, 1 << 20).read(batch_size, "batch_size")
        self.score_threshold = number(0, 1).read(score_threshold, "score_threshold")
        self.model = _unwrapped(model)
        if device is not None:
            self.model = _on_device(self.model, usable_device(device))
        config: Any = self.model.config
        self.config = config
        self.profile = profile_from_config(config, nms, nms_configs)
        self.accurate_dct = accurate_dct
        names = config.label_map if label_map is None else label_map
        self.names = resolve_label_map(names, config.num_classes)
        self._anchors = torch.from_numpy(anchors_from_config(config))
        self._network = CurrentEngine(self.model, engine)

    @property
    def engine(self) -> str:
        """What runs the network now, in words."""
        return self._network.current().describe()

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return _first_parameter(self.model).device

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> list[Detections]:
        """One `Detections` per image, in order.

        images: uint8 RGB arrays or tensors [height, width, 3] of any sizes, paths of image files, or Pillow images of
        any mode with 8 or 16 bits; a single one is taken as a list of one. EXIF orientation is ignored, as TensorFlow
        ignores it; a Pillow image that was opened from a JPEG has Pillow's pixels, which differ a little from
        TensorFlow's: give the path for those. Raises InputError, naming the file, for what cannot be read.
        """
        if isinstance(images, (str, os.PathLike, Image.Image)) or getattr(images, "ndim", 0) in (2, 3):
            images = [images]  # type: ignore[list-item]
        if isinstance(images, (bytes, bytearray)) or not isinstance(images, Iterable):
            raise InputError(
                f"images: expected uint8 arrays, Pillow images or paths, one or several, found a "
                f"{type(images).__name__}; read encoded images with PIL.Image.open."
            )
        return list(self.stream(images))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Detections]:
        """The same for a source of any length: reads, and answers, one batch after the other."""
        source = iter(images)
        while batch := [self._pixels(image) for image in islice(source, self.batch_size)]:
            yield from self._detect(batch)

    def _pixels(self, image: ImageLike) -> Any:
        if isinstance(image, Image.Image):
            return rgb_pixels(image)
        if isinstance(image, (str, os.PathLike)):
            return decode_image(image, accurate_dct=self.accurate_dct)
        return image

    @torch.inference_mode()
    def _detect(self, images: list[Any]) -> list[Detections]:
        inputs, scales = zip(*(preprocess(image, self.config) for image in images), strict=True)
        like = _first_parameter(self.model)
        if self._anchors.device != like.device:
            self._anchors = self._anchors.to(like.device)
        class_outputs, box_outputs = self._network(torch.stack(inputs))
        rows = postprocess(
            self.profile,
            class_outputs,
            box_outputs,
            self._anchors,
            self.config.num_classes,
            scales,
            self.config.image_size,
            [tuple(image.shape[:2]) for image in images],
        )
        return [self._detections(found) for found in rows]

    def _detections(self, rows: npt.NDArray[np.float32]) -> Detections:
        ids = rows[:, 5].astype(np.int64)
        names = [category_name(self.names, number) for number in ids.tolist()]
        found = Detections(np.ascontiguousarray(rows[:, [1, 0, 3, 2]]), rows[:, 4].copy(), ids, names)
        return found.above(self.score_threshold) if self.score_threshold > 0 else found


def _unwrapped(model: nn.Module) -> Any:
    """The model with `.config` within what DataParallel, DistributedDataParallel or AveragedModel made of it."""
    inner: Any = model
    while not hasattr(inner, "config") and isinstance(getattr(inner, "module", None), nn.Module):
        inner = inner.module
    if not isinstance(inner, nn.Module) or not hasattr(inner, "config"):
        raise InputError(
            f"Detector: expected a model as create_model makes it, found {type(model).__name__} without a config; pass "
            "create_model(...)."
        )
    return inner


def _on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself where it is there already, else a copy."""
    return model if _first_parameter(model).device == device else copy.deepcopy(model).to(device)


def _first_parameter(model: nn.Module) -> Tensor:
    return next(model.parameters())
