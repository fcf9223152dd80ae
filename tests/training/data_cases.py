"""Small data sets for tests of training, in COCO's format, with pictures of one colour or drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demo.drawn_dataset import draw_training_set
from effdet_model import create_model
from effdet_model.config import EfficientDetConfig
from training.data import DataSource, DetectionDataset, open_dataset

NAMES = {1: "disc", 2: "square", 3: "triangle"}


def small_config(size: int | tuple[int, int] = 64, **overrides: Any) -> EfficientDetConfig:
    """lite0's configuration at a small size, with three classes."""
    return LITE0.replace(image_size=size, num_classes=3, label_map=None, **overrides)


LITE0 = create_model("lite0", image_size=64, num_classes=3).config


def drawn(folder: Path, count: int = 7, split: str = "train") -> DetectionDataset:
    """Drawn pictures, opened."""
    draw_training_set(folder, count, 2, sizes=(48, 90))
    return open_dataset(DataSource(coco=folder, split=split))


def write_coco(
    folder: Path,
    boxes: Sequence[Sequence[tuple[int, Sequence[float]]]],
    sizes: Sequence[tuple[int, int]] | None = None,
    categories: Mapping[int, str] = NAMES,
    **more: Any,
) -> DataSource:
    """A data set of grey pictures.

    Args:
        boxes: of each picture (category id, [x, y, width, height]).
        sizes: (height, width) of each picture; 50 x 80 where left out.
        more: keys of every annotation.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, rows in enumerate(boxes, 1):
        height, width = (50, 80) if sizes is None else sizes[number - 1]
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for category, bbox in rows:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": list(bbox), **more}
            )
    listed = [{"id": id_, "name": name} for id_, name in categories.items()]
    content = {"images": images, "annotations": annotations, "categories": listed}
    (folder / "truth.json").write_text(json.dumps(content), encoding="utf-8")
    return DataSource(images=folder / "images", annotations=folder / "truth.json")
