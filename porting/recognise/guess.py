"""The hparams that a checkpoint was trained with, as far as names and shapes of its variables tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.fit import Shape
from effdet_model.fpn_graph import build_fpn_graph
from effdet_model.variants import OFFICIAL_VARIANTS, get_config
from mappings.committed import table_for
from porting.recognise.heads import Heads, heads_overrides

_FPN_NAMES = (None, "qufpn")
_MAX_LEVEL = 16  # an image of 65536 pixels has one cell there
_SAME_VARIABLES = {"channel_fastattn": ("channel_fastattn", "channel_attn")}


@dataclass(frozen=True)
class Guess:
    """Variants and the config fields to change, which together make exactly the variables of a checkpoint.

    Attributes:
        variants: those with the fewest changes; they have the same architecture.
        overrides: the changes, without those of the heads, and what was given.
        undecided: values of fpn_weight_method that have the same variables, none of which is the variants' own; empty
            where it is settled.
    """

    variants: tuple[str, ...]
    overrides: Mapping[str, Any]
    undecided: tuple[str, ...] = ()


def guess(shapes: Mapping[str, Shape], scope: str | None, heads: Heads, given: Mapping[str, Any]) -> Guess | None:
    """The variants with the fewest changes that make exactly these canonical names and shapes; None: none does.

    Args:
        scope: the backbone's name. given: config fields that are known already, e.g. from --hparams.
    """
    read = _read(shapes)
    if read is None:
        return None
    changes = {
        name: {key: value for key, value in read.items() if _effective(get_config(name), key) != value}
        for name in OFFICIAL_VARIANTS
        if get_config(name).backbone_name == scope
    }
    if not changes:
        return None
    fewest = min(map(len, changes.values()))
    names = tuple(name for name, fields in changes.items() if len(fields) == fewest)
    first = get_config(names[0])
    names = tuple(name for name in names if changes[name] == changes[names[0]])
    overrides = {**changes[names[0]], **given}
    config = first.replace(**overrides)
    try:
        found = table_for(config.replace(**heads_overrides(config, heads))).tensorflow_shapes
    except InputError:
        return None
    if found != dict(shapes):
        return None
    method = overrides.get("fpn_weight_method")
    twins = _SAME_VARIABLES.get(str(method), ()) if "fpn_weight_method" not in given else ()
    return Guess(names, overrides, twins)


def _effective(config: EfficientDetConfig, key: str) -> Any:
    value = getattr(config, key)
    return "fastattn" if key == "fpn_weight_method" and value is None else value


def _read(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """Config fields that change names or shapes; None where this is no whole EfficientDet."""

    def numbers(pattern: str) -> list[int]:
        return sorted({int(match[1]) for name in shapes if (match := re.match(pattern, name))})

    levels = numbers(r"class_net/class-0-bn-(\d{1,3})/")
    cells, nodes = numbers(r"fpn_cells/cell_(\d{1,3})/"), numbers(r"fpn_cells/cell_0/fnode(\d{1,3})/")
    separable = "class_net/class-predict/depthwise_kernel" in shapes
    kernel = shapes.get(f"class_net/class-predict/{'pointwise_kernel' if separable else 'kernel'}", ())
    if not levels or not cells or len(kernel) != 4 or levels[-1] > _MAX_LEVEL:
        return None
    weights = [shape for name, shape in shapes.items() if re.search(r"/WSM(_\d+)?$", name)]
    method = "sum" if not weights else "channel_fastattn" if weights[0] else "fastattn"
    names = [
        name for name in _FPN_NAMES if len(build_fpn_graph(name, levels[0], levels[-1]).nodes) == len(nodes)
    ]
    if not names:
        return None
    return {
        "min_level": levels[0],
        "max_level": levels[-1],
        "fpn_num_filters": kernel[2],
        "fpn_cell_repeats": len(cells),
        "box_class_repeats": len(numbers(r"class_net/class-(\d{1,3})/")),
        "separable_conv": separable,
        "apply_bn_for_resampling": any(re.search(r"resample_\w+/bn/", name) for name in shapes),
        "conv_bn_act_pattern": not any(re.search(r"/op_after_combine\d+/conv/bias$", name) for name in shapes),
        "fpn_name": names[0],
        "fpn_weight_method": method,
    }
