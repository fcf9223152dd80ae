"""Small pictures that this project draws itself, for the demo: discs, boxes and stripes on a gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from porting.files import atomic_write

SIZES = ((240, 320), (320, 240), (200, 200))
"""(height, width) of the pictures."""


def draw_scene(height: int, width: int, seed: int) -> Image.Image:
    """An RGB picture of a few shapes; the same for the same arguments."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    tints = random.uniform(40, 215, (3, 3))
    blend = (columns / width)[..., None] * tints[0] + (rows / height)[..., None] * tints[1] + 0.2 * tints[2]
    image = Image.fromarray(np.clip(blend, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for number in range(6):
        size = int(random.integers(min(height, width) // 8, min(height, width) // 3))
        x, y = int(random.integers(0, width - size)), int(random.integers(0, height - size))
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        box = (x, y, x + size, y + size)
        if number % 3 == 0:
            draw.ellipse(box, fill=colour)
        elif number % 3 == 1:
            draw.rectangle(box, fill=colour, outline=(255, 255, 255), width=2)
        else:
            draw.line((x, y, x + size, y + size), fill=colour, width=5)
    return image


def write_scenes(folder: Path, seed: int = 0) -> list[Path]:
    """Draw one picture of each of `SIZES` into `folder` (made where missing): JPEG and PNG by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (height, width) in enumerate(SIZES):
        path = folder / f"scene-{number}{'.png' if number % 2 else '.jpg'}"
        with atomic_write(path) as temporary:
            kind = "PNG" if path.suffix == ".png" else "JPEG"
            draw_scene(height, width, seed + number).save(temporary, format=kind)
        paths.append(path)
    return paths
