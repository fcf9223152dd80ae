"""Policies of google/automl's aug/autoaugment.py (6a54c87), as data: operation, probability, level.

A policy is a list of sub-policies, one of which is chosen for a picture; its operations are applied in turn. `Only`
stands for `_Only_BBoxes`: each box is changed by itself.
"""

from __future__ import annotations

from typing import NamedTuple

_V0 = """
TranslateX_BBox .6 4, Equalize .8 10 | TranslateY_Only .2 2, Cutout .8 8 | Sharpness 0 8, ShearX_BBox .4 0 |
ShearY_BBox 1 2, TranslateY_Only .6 6 | Rotate_BBox .6 10, Color 1 6
"""
_V1 = """ |
Color 0 0, ShearX_Only .8 4 | ShearY_Only .8 2, Flip_Only 0 10 | Equalize .6 10, TranslateX_BBox .2 2 |
Color 1 10, TranslateY_Only .4 6 | Rotate_BBox .8 10, Contrast 0 10 | Cutout .2 2, Brightness .8 10 |
Color 1 6, Equalize 1 2 | Cutout_Only .4 6, TranslateY_Only .8 2 | Color .2 8, Rotate_BBox .8 10 |
Sharpness .4 4, TranslateY_Only 0 4 | Sharpness 1 4, SolarizeAdd .4 4 | Rotate_BBox 1 8, Sharpness .2 8 |
ShearY_BBox .6 10, Equalize_Only .6 8 | ShearX_BBox .2 6, TranslateY_Only .2 10 | SolarizeAdd .6 8, Brightness .8 10
"""
_V2 = """
Color 0 6, Cutout .6 8, Sharpness .4 8 | Rotate_BBox .4 8, Sharpness .4 2, Rotate_BBox .8 10 |
TranslateY_BBox 1 8, AutoContrast .8 2 | AutoContrast .4 6, ShearX_BBox .8 8, Brightness 0 10 |
SolarizeAdd .2 6, Contrast 0 10, AutoContrast .6 0 | Cutout .2 0, Solarize .8 8, Color 1 4 |
TranslateY_BBox 0 4, Equalize .6 8, Solarize 0 10 | TranslateY_BBox .2 2, ShearY_BBox .8 8, Rotate_BBox .8 8 |
Cutout .8 8, Brightness .8 8, Cutout .2 2 | Color .8 4, TranslateY_BBox 1 6, Rotate_BBox .6 6 |
Rotate_BBox .6 10, BBox_Cutout 1 4, Cutout .2 8 | Rotate_BBox 0 0, Equalize .6 6, ShearY_BBox .6 8 |
Brightness .8 8, AutoContrast .4 2, Brightness .2 2 | TranslateY_BBox .4 8, Solarize .4 6, SolarizeAdd .2 10 |
Contrast 1 10, SolarizeAdd .2 8, Equalize .2 4
"""
_V3 = """
Posterize .8 2, TranslateX_BBox 1 8 | BBox_Cutout .2 10, Sharpness 1 8 | Rotate_BBox .6 8, Rotate_BBox .8 10 |
Equalize .8 10, AutoContrast .2 10 | SolarizeAdd .2 2, TranslateY_BBox .2 8 | Sharpness 0 2, Color .4 8 |
Equalize 1 8, TranslateY_BBox 1 8 | Posterize .6 2, Rotate_BBox 0 10 | AutoContrast .6 0, Rotate_BBox 1 6 |
Equalize 0 4, Cutout .8 10 | Brightness 1 2, TranslateY_BBox 1 6 | Contrast 0 2, ShearY_BBox .8 0 |
AutoContrast .8 10, Contrast .2 10 | Rotate_BBox 1 10, Cutout 1 10 | SolarizeAdd .8 6, Equalize .8 8
"""

RANDAUG = (
    "Equalize", "Solarize", "Color", "Cutout", "SolarizeAdd", "TranslateX_BBox", "TranslateY_BBox", "ShearX_BBox",
    "ShearY_BBox", "Rotate_BBox",
)  # fmt: skip
"""What randaug chooses from."""


class Step(NamedTuple):
    """One operation of a sub-policy."""

    name: str
    probability: float
    level: float


Policy = tuple[tuple[Step, ...], ...]


def _parsed(text: str) -> Policy:
    return tuple(
        tuple(
            Step(name.replace("_Only", "_Only_BBoxes"), float(probability), float(level))
            for name, probability, level in (step.split() for step in sub_policy.split(","))
        )
        for sub_policy in text.split("|")
    )


POLICIES: dict[str, Policy] = {
    "v0": _parsed(_V0),
    "v1": _parsed(_V0 + _V1),
    "v2": _parsed(_V2),
    "v3": _parsed(_V3),
    "test": _parsed("TranslateX_BBox 1 4, Equalize 1 10"),
}
