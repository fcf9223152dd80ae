"""What both frameworks are fed: images through the exact preprocessing, and seeded noise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError


@dataclass(frozen=True)
class DiffInput:
    """One network input.

    Attributes:
        name: file name, or "noise-SEED". kind: "image" or "noise".
        array: float32 [1, 3, H, W], normalised.
    """

    name: str
    kind: str
    array: np.ndarray

    @property
    def sha256(self) -> str:
        """Checksum of the values in C order, in hex."""
        return hashlib.sha256(np.ascontiguousarray(self.array).tobytes()).hexdigest()


def make_inputs(
    config: EfficientDetConfig, images: Sequence[str | Path] = (), noise_seeds: Sequence[int] = ()
) -> list[DiffInput]:
    """Images first, then noise; noise of seed 0 where nothing is asked for.

    Args:
        config: its `image_size` (height, width) and its preprocessing count.
        noise_seeds: one input each, standard normal.

    Raises:
        InputError: an image cannot be read.
    """
    seeds = list(noise_seeds) if images or noise_seeds else [0]
    return [*(_image(Path(path), config) for path in images), *(noise(seed, config.image_size) for seed in seeds)]


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
    return DiffInput(path.name, "image", np.asarray(pixels, np.float32)[None])
