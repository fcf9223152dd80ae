"""The first batches as a mosaic, with boxes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from effdet_model.config import EfficientDetConfig
from effdet_model.labels import category_name
from training.running.job import Job
from verify.report.drawing import category_color, draw_boxes

_ROWS, _COLUMNS = 3, 4
_TILE = 256
"""Longest side of a picture, in pixels."""
_QUALITY = 85


def first_batches(job: Job) -> bytes | None:
    """A JPEG of the first pictures as the network gets them in this process; None where it gets none."""
    tiles: list[Image.Image] = []
    for batch in itertools.islice(job.loader.epoch(0), 4):
        for image, boxes, classes in zip(batch.images, batch.boxes, batch.classes, strict=True):
            tiles.append(_tile(image, boxes, classes, job.config, job.data.label_map))
        if len(tiles) >= _ROWS * _COLUMNS:
            break
    tiles = tiles[: _ROWS * _COLUMNS]
    if not tiles:
        return None
    width, height = tiles[0].size
    rows = -(-len(tiles) // _COLUMNS)
    page = Image.new("RGB", (width * min(len(tiles), _COLUMNS), height * rows))
    for place, tile in enumerate(tiles):
        page.paste(tile, (width * (place % _COLUMNS), height * (place // _COLUMNS)))
    out = io.BytesIO()
    page.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _tile(
    image: Tensor, boxes: Tensor, classes: Tensor, config: EfficientDetConfig, names: Mapping[int, str]
) -> Image.Image:
    pixels = _as_pixels(image, config)
    factor = _TILE / max(pixels.shape[:2])
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    xyxy = boxes.cpu().numpy().reshape(-1, 4)[:, [1, 0, 3, 2]] * factor
    seen = classes.cpu().numpy()
    labels = [category_name(names, int(id_)) if id_ > 0 else "ignored" for id_ in seen]
    return draw_boxes(resized, xyxy, labels, [category_color(int(id_)) for id_ in seen])


def _as_pixels(image: Tensor, config: EfficientDetConfig) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] of a normalised [3, H, W]."""
    values = image.detach().float().cpu().numpy().transpose(1, 2, 0)
    if config.scale_range:
        values = (values + 1) * 127.5
    else:
        values = values * np.asarray(config.stddev_rgb) + np.asarray(config.mean_rgb)
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
