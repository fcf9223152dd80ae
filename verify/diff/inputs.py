"""What both frameworks are fed: images through the exact preprocessing, a drawn picture, and seeded noise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from porting.files import file_sha256

LEAST_LEVEL = 3
"""Rows and columns of a level at which every tap of a 3 x 3 kernel meets values of the map."""


@dataclass(frozen=True)
class DiffInput:
    """One network input.

    Attributes:
        name: file name, "drawn-SEED" or "noise-SEED". kind: "image", "drawn" or "noise".
        array: float32 [1, 3, H, W], normalised. file_sha256: of an image's file, else "".
    """

    name: str
    kind: str
    array: np.ndarray
    file_sha256: str = ""

    @property
    def sha256(self) -> str:
        """Checksum of the values in C order, in hex."""
        return hashlib.sha256(np.ascontiguousarray(self.array).tobytes()).hexdigest()


def make_inputs(
    config: EfficientDetConfig, images: Sequence[str | Path] = (), noise_seeds: Sequence[int] = ()
) -> list[DiffInput]:
    """Images first, then noise; a drawn picture and noise of seed 0 where nothing is asked for.

    Args:
        config: its `image_size` (height, width) and its preprocessing count.
        noise_seeds: one input each, standard normal.

    Raises:
        InputError: an image cannot be read.
    """
    if not images and not noise_seeds:
        return [drawn(0, config), noise(0, config.image_size)]
    return [*(_image(Path(path), config) for path in images), *(noise(seed, config.image_size) for seed in noise_seeds)]


def check_size(config: EfficientDetConfig) -> list[str]:
    """What a reader should know of the image size: levels on which 3 x 3 kernels do not meet a whole map.

    Raises:
        InputError: even the finest level is below 3 x 3, so that no layer of BiFPN and heads is tried.
    """
    sizes = config.feature_sizes()
    small = [level for level in config.levels if min(sizes[level]) < LEAST_LEVEL]
    if config.min_level in small:
        raise InputError(
            f"image size: expected at least {least_size(config.min_level)} pixels a side, with which level "
            f"{config.min_level} is {LEAST_LEVEL} x {LEAST_LEVEL}, found {config.image_size[0]} x "
            f"{config.image_size[1]}; choose {least_size(config.max_level)} or more to try every level."
        )
    if not small:
        return []
    return [
        f"Levels {', '.join(map(str, small))} are below {LEAST_LEVEL} x {LEAST_LEVEL} at this image size: some taps of "
        f"their kernels meet padding alone and are proved by the tensors, not by layers; from "
        f"{least_size(config.max_level)} pixels a side every level is large enough."
    ]


def least_size(level: int) -> int:
    """The smallest image side at which a level has `LEAST_LEVEL` rows."""
    return (LEAST_LEVEL - 1) * 2**level + 1


def drawn(seed: int, config: EfficientDetConfig) -> DiffInput:
    """Shapes on a gradient, drawn from a seed, through the exact preprocessing; a quarter wider than the input."""
    from effdet_model.preprocessing import preprocess

    height, width = config.image_size
    pixels, _ = preprocess(draw_picture(seed, height, width + width // 4), config)
    return DiffInput(f"drawn-{seed}", "drawn", np.asarray(pixels, np.float32)[None])


def draw_picture(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: a colour gradient, faint noise, and discs, rings and bars of all sizes."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width
    low, down, right = random.uniform(0, 160, 3), random.uniform(-60, 95, 3), random.uniform(-60, 95, 3)
    picture = low + y[..., None] * down + x[..., None] * right
    for number in range(24):
        middle_y, middle_x, radius = *random.uniform(0, 1, 2), 0.4 * random.uniform(0.1, 1) ** 2
        distance = np.hypot(y - middle_y, (x - middle_x) * width / height)
        inside = (
            distance < radius,
            np.abs(distance - radius) < radius / 5,
            (np.abs(y - middle_y) < radius) & (np.abs(x - middle_x) < radius / 3),
        )[number % 3]
        picture[inside] = random.uniform(0, 255, 3)
    picture += random.normal(0, 4, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def noise(seed: int, image_size: tuple[int, int]) -> DiffInput:
    """Standard normal noise of a seed, the same on every machine."""
    if seed < 0:
        raise InputError(f"noise seed: expected a whole number >= 0, found {seed}.")
    height, width = image_size
    values = np.random.RandomState(seed).standard_normal((1, height, width, 3)).astype(np.float32)
    return DiffInput(f"noise-{seed}", "noise", np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def _image(path: Path, config: EfficientDetConfig) -> DiffInput:
    from effdet_model.decoding import decode_image
    from effdet_model.preprocessing import preprocess

    pixels, _ = preprocess(decode_image(path), config)
    return DiffInput(path.name, "image", np.asarray(pixels, np.float32)[None], file_sha256(path))
