"""Settings of augmentation: each field one choice, with a type, a range and google/automl's default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effdet_model.errors import InputError, unknown_name
from effdet_model.field_types import FieldType, Nullable, Plain, is_list, number, one_of, whole

STYLES = ("google", "effdet")
POLICIES = ("v0", "v1", "v2", "v3", "randaug", "test")
USES = ("skip", "ignore", "train")


@dataclass(frozen=True)
class AugmentationSettings:
    """How pictures and boxes become the model's input during training. Types and ranges: `FIELDS`.

    The order is: crowds, mosaic, grid mask, autoaugment, colour, horizontal flip, random scale and crop, erasing.

    Attributes:
        style: "google": normalise, resize without antialiasing, scaled sizes truncated, boxes clipped to the input
            less one pixel; "effdet": Pillow's antialiased resize of 8-bit pixels, boxes clipped to the picture.
        hflip: probability of a horizontal flip.
        jitter_min, jitter_max: smallest and largest random scale of the picture against the input; both 1 resize the
            picture as evaluation does.
        autoaugment_policy: "v0" to "v3" of google/automl, "randaug", or None. num_layers, magnitude: of "randaug".
        gridmask: probability of a grid mask.
        mosaic: probability that four pictures become one.
        random_erase: probability that a rectangle of the input is erased. random_erase_count: most rectangles.
            random_erase_mode: "const" (mean colour), "rand" (one random colour) or "pixel" (noise).
        color_jitter: largest change of brightness, contrast and saturation, and of the hue by a tenth of it.
        fill_color: of what the picture does not cover: "mean" (the model's mean colour), one number, or three (RGB).
        crowd: what becomes of boxes that mark a group ("skip": they are left out, as in both originals; "ignore": their
            anchors count neither as a class nor as background; "train": they are ordinary boxes).
        difficult: the same for boxes that the data calls difficult or ignored; both originals train them.
        min_box_side: boxes are left out whose shorter side in the input has fewer pixels.
        max_instances: most boxes of one picture, the first ones; None keeps all.
    """

    style: str = "google"
    hflip: float = 0.5
    jitter_min: float = 0.1
    jitter_max: float = 2.0
    autoaugment_policy: str | None = None
    num_layers: int = 1
    magnitude: float = 15.0
    gridmask: float = 0.0
    mosaic: float = 0.0
    random_erase: float = 0.0
    random_erase_count: int = 1
    random_erase_mode: str = "pixel"
    color_jitter: float = 0.0
    fill_color: str | int | tuple[int, ...] = "mean"
    crowd: str = "skip"
    difficult: str = "train"
    min_box_side: float = 0.0
    max_instances: int | None = None

    def __post_init__(self) -> None:
        for name, kind in FIELDS.items():
            object.__setattr__(self, name, kind.read(getattr(self, name), f"augmentation: {name}"))
        if self.jitter_min > self.jitter_max:
            raise InputError(
                f"augmentation: expected jitter_min of at most jitter_max, found {self.jitter_min:g} and "
                f"{self.jitter_max:g}; exchange them."
            )

    @classmethod
    def none(cls, style: str = "google") -> AugmentationSettings:
        """Resize and pad alone, as evaluation does."""
        return cls(style=style, hflip=0.0, jitter_min=1.0, jitter_max=1.0)

    def replace(self, **overrides: Any) -> AugmentationSettings:
        """A copy with some settings changed.

        Raises:
            InputError: a setting does not exist or has a value that it cannot have.
        """
        for name in overrides:
            if name not in FIELDS:
                raise unknown_name("augmentation setting", name, FIELDS)
        return dataclasses.replace(self, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `AugmentationSettings(**data)` makes the same settings."""
        return dataclasses.asdict(self)

    @property
    def resizes_only(self) -> bool:
        """Whether the scale is that of evaluation, and never random."""
        return self.jitter_min == self.jitter_max == 1.0


def _fill_color(value: Any) -> str | int | tuple[int, ...]:
    if value == "mean":
        return "mean"
    level = whole(0, 255)
    if is_list(value):
        if len(value) != 3:
            raise ValueError
        return tuple(level.convert(each) for each in value)
    return int(level.convert(value))


_PROBABILITY = number(0, 1)

FIELDS: Mapping[str, FieldType] = {
    "style": one_of(STYLES),
    "hflip": _PROBABILITY,
    "jitter_min": number(0.01, 10),
    "jitter_max": number(0.01, 10),
    "autoaugment_policy": Nullable(one_of(POLICIES)),
    "num_layers": whole(1, 10),
    "magnitude": number(0, 30),
    "gridmask": _PROBABILITY,
    "mosaic": _PROBABILITY,
    "random_erase": _PROBABILITY,
    "random_erase_count": whole(1, 100),
    "random_erase_mode": one_of(("const", "rand", "pixel")),
    "color_jitter": _PROBABILITY,
    "fill_color": Plain("mean, one whole number from 0 to 255, or three of them", _fill_color),
    "crowd": one_of(USES),
    "difficult": one_of(USES),
    "min_box_side": number(0, 10_000),
    "max_instances": Nullable(whole(1, 1_000_000)),
}
"""What every setting may be."""
