"""EfficientNet's blocks for the TensorFlow reference, worked out from the official block strings.

Source: google/automl `backbone/efficientnet_builder.py`, `efficientnet_lite_builder.py` and
`efficientnet_model.py` (6a54c87). Nothing here is shared with the PyTorch side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

STAGES = (
    "r1_k3_s1_e1_i32_o16",
    "r2_k3_s2_e6_i16_o24",
    "r2_k5_s2_e6_i24_o40",
    "r3_k3_s2_e6_i40_o80",
    "r3_k5_s1_e6_i80_o112",
    "r4_k5_s2_e6_i112_o192",
    "r1_k3_s1_e6_i192_o320",
)
SCALING = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8),
    "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1), "b8": (2.2, 3.6), "l2": (4.3, 5.3),
    "lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8),
}
"""Width and depth coefficient of every backbone."""


@dataclass(frozen=True)
class Block:
    """One inverted residual block.

    `number` counts through the whole backbone (TensorFlow's `blocks_N`); `stage` and `index` make the stable
    name. `reduction` is the level whose feature the block's output is, None where another block of it follows.
    """

    number: int
    stage: int
    index: int
    kernel: int
    stride: int
    expands: bool
    squeezes: bool
    skips: bool
    reduction: int | None


def blocks(backbone_name: str) -> list[Block]:
    """The blocks of "efficientnet-b0" .. "efficientnet-l2", "efficientnet-lite0" .. "efficientnet-lite4".

    Raises:
        KeyError: no such backbone.
    """
    short = backbone_name.removeprefix("efficientnet-")
    width, depth = SCALING[short]
    lite = short.startswith("lite")
    drafts = list(_drafts(width, depth, lite))
    result = []
    level = 0
    for number, (stage, index, kernel, stride, expand, channels_in, channels_out) in enumerate(drafts):
        last_of_level = number + 1 == len(drafts) or drafts[number + 1][3] > 1
        level += last_of_level
        result.append(
            Block(
                number=number, stage=stage, index=index, kernel=kernel, stride=stride, expands=expand != 1,
                squeezes=not lite, skips=stride == 1 and channels_in == channels_out,
                reduction=level if last_of_level else None,
            )
        )
    return result


def _drafts(width: float, depth: float, lite: bool) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    for stage, text in enumerate(STAGES):
        option = {key: int(value) for key, value in re.findall(r"([a-z])(\d+)", text)}
        fixed_depth = lite and stage in (0, len(STAGES) - 1)
        repeats = option["r"] if fixed_depth else math.ceil(depth * option["r"])
        channels_in, channels_out = rounded_filters(option["i"], width), rounded_filters(option["o"], width)
        for index in range(repeats):
            first = index == 0
            yield (
                stage, index, option["k"], option["s"] if first else 1, option["e"],
                channels_in if first else channels_out, channels_out,
            )


def rounded_filters(filters: int, width: float) -> int:
    """Filters times width, to the nearest multiple of 8, at most 10 % less than asked for."""
    wanted = filters * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
