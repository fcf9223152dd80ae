"""Images in, detections out: decoding, preprocessing, model and suppression behind one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from effdet_model.anchors import anchors_from_config
from effdet_model.decoding import decode_image
from effdet_model.errors import InputError
from effdet_model.labels import category_name, resolve_label_map
from effdet_model.nms import postprocess
from effdet_model.nms_profiles import DEFAULT_PROFILE, NmsProfile, resolve_profile
from effdet_model.preprocessing import preprocess

ImageLike = npt.NDArray[np.uint8] | Tensor | str | os.PathLike[str]


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
    """A model with everything around it: `Detector(model)(["a.jpg", array])` gives a list of `Detections`."""

    def __init__(
        self,
        model: torch.nn.Module,
        nms: str | NmsProfile = DEFAULT_PROFILE,
        *,
        nms_configs: Mapping[str, Any] | None = None,
        batch_size: int = 8,
        device: str | torch.device | None = None,
        label_map: str | Mapping[Any, str] | None = None,
        accurate_dct: bool = False,
    ) -> None:
        """
        Args:
            model: as `create_model` makes it, with `.config`; put into eval mode and moved to `device`.
            nms: a name of `nms_profiles.PROFILES`, or a profile of one's own.
            nms_configs: thresholds and sizes that replace the profile's, names as in google/automl.
            batch_size: images that go through the model at once.
            device: where the model runs; None: where it is.
            label_map: names of the categories; None: the configuration's own.
            accurate_dct: decode JPEG files with the exact DCT instead of TensorFlow's default.

        Raises:
            InputError: an unknown profile or label map, or a batch size below 1.
        """
        if batch_size < 1:
            raise InputError(f"batch size: expected at least 1, found {batch_size}; give a positive number.")
        config: Any = model.config
        self.config = config
        self.profile = resolve_profile(nms, nms_configs)
        self.batch_size = batch_size
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.model = model.eval().to(self.device)
        self.accurate_dct = accurate_dct
        names = config.label_map if label_map is None else label_map
        self.names = resolve_label_map(names, config.num_classes)
        self._anchors = torch.from_numpy(anchors_from_config(config)).to(self.device)

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> list[Detections]:
        """One `Detections` per image, in order.

        images: uint8 RGB arrays or tensors [height, width, 3] of any sizes, or paths of image files; a single
        one is taken as a list of one. Raises InputError, naming the file, for what cannot be read.
        """
        if isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", 0) == 3:
            images = [images]  # type: ignore[list-item]
        return list(self.stream(images))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Detections]:
        """The same for a source of any length: reads, and answers, one batch after the other."""
        source = iter(images)
        while batch := [self._pixels(image) for image in islice(source, self.batch_size)]:
            yield from self._detect(batch)

    def _pixels(self, image: ImageLike) -> Any:
        if isinstance(image, (str, os.PathLike)):
            return decode_image(image, accurate_dct=self.accurate_dct)
        return image

    @torch.inference_mode()
    def _detect(self, images: list[Any]) -> list[Detections]:
        inputs, scales = zip(*(preprocess(image, self.config) for image in images), strict=True)
        class_outputs, box_outputs = self.model(torch.stack(inputs).to(self.device))
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
        return Detections(np.ascontiguousarray(rows[:, [1, 0, 3, 2]]), rows[:, 4].copy(), ids, names)
