"""Images of shapes, drawn from a seed, with COCO annotations: for the demo, benchmarks and tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CATEGORIES = {1: "disc", 2: "square", 3: "triangle"}


def draw_dataset(
    folder: Path,
    count: int,
    seed: int = 0,
    sizes: tuple[int, int] = (72, 200),
    suffixes: tuple[str, ...] = (".jpg", ".png"),
    apart: bool = False,
) -> Path:
    """Write `count` images into `folder`/images and their COCO annotations beside it; the same for the same seed.

    Args:
        sizes: smallest and largest side in pixels. suffixes: file types, in turn.
        apart: shapes lie beside each other; else they may hide one another.

    Returns:
        The annotation file, `folder`/instances.json; category ids are those of `CATEGORIES`.
    """
    random = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height, width = (int(side) for side in random.integers(sizes[0], sizes[1] + 1, 2))
        picture, shapes = _draw(random, height, width, apart)
        name = f"{number + 1:012d}{suffixes[number % len(suffixes)]}"
        picture.save(folder / "images" / name, quality=90)
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for category, (x, y, side) in shapes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": category,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
    content: dict[str, Any] = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in CATEGORIES.items()],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _draw(
    random: np.random.Generator, height: int, width: int, apart: bool
) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int]]]]:
    """A noisy picture with one to four shapes: (category id, (x, y, side))."""
    coarse = random.integers(40, 200, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    shapes: list[tuple[int, tuple[int, int, int]]] = []
    for _ in range(int(random.integers(1, 5))):
        category = int(random.integers(1, len(CATEGORIES) + 1))
        side = int(random.integers(min(height, width) // 6, min(height, width) // 2))
        x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
        color = tuple(int(value) for value in random.integers(0, 256, 3))
        if apart and any(_meet((x, y, side), other) for _, other in shapes):
            continue
        if category == 1:
            pen.ellipse((x, y, x + side, y + side), fill=color)
        elif category == 2:
            pen.rectangle((x, y, x + side, y + side), fill=color)
        else:
            pen.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=color)
        shapes.append((category, (x, y, side)))
    grain = random.normal(0, 6, (height, width, 1))
    pixels = np.clip(np.asarray(picture, np.float64) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), shapes


def _meet(first: tuple[int, int, int], second: tuple[int, int, int]) -> bool:
    """Whether two squares (x, y, side) have a pixel in common."""
    (x0, y0, side0), (x1, y1, side1) = first, second
    return max(x0, x1) <= min(x0 + side0, x1 + side1) and max(y0, y1) <= min(y0 + side0, y1 + side1)
