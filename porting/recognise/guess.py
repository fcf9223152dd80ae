"""The hparams that a checkpoint was trained with, as far as names and shapes of its variables tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.fpn_graph import build_fpn_graph
from effdet_model.variants import OFFICIAL_VARIANTS, get_config
from mappings.committed import table_for
from porting.recognise.census import Heads
from porting.recognise.weight_census import heads_overrides

Shape = tuple[int, ...]

_FPN_NAMES = (None, "qufpn")


@dataclass(frozen=True)
class Guess:
    """A variant and the config fields to change, which together make exactly the variables of a checkpoint.

    Attributes:
        untold: choices that the checkpoint does not tell, in a sentence; "" where none.
    """

    variant: str
    overrides: Mapping[str, Any]
    untold: str


def guess(shapes: Mapping[str, Shape], scope: str | None, heads: Heads) -> Guess | None:
    """The variant with the fewest changes that makes exactly these canonical names and shapes; None: none does."""
    read = _read(shapes)
    if read is None:
        return None
    best: tuple[EfficientDetConfig, dict[str, Any]] | None = None
    for name in OFFICIAL_VARIANTS:
        base = get_config(name)
        if base.backbone_name == scope:
            changes = {key: value for key, value in read.items() if _effective(base, key) != value}
            if best is None or len(changes) < len(best[1]):
                best = base, changes
    if best is None:
        return None
    base, changes = best
    overrides = {**changes, **heads_overrides(base, heads)}
    try:
        found = table_for(base.replace(**overrides)).tensorflow_shapes
    except InputError:
        return None
    if found != dict(shapes):
        return None
    method = read["fpn_weight_method"]
    other = {"fastattn": "attn", "channel_fastattn": "channel_attn"}.get(method)
    untold = f"fpn_weight_method {method} has the same variables as {other}; " if other else ""
    return Guess(base.name, overrides, f"{untold}act_type, image_size and aspect_ratios are not in a checkpoint")


def named_variant(path: Path, exact: tuple[str, ...]) -> str | None:
    """Which of several variants with the same shapes a path names (efficientdet-d7.tar.gz, advprop/...), if one."""
    words = set(re.split(r"[^a-z0-9]+", "/".join(path.parts[-3:]).lower()))
    suffix = "_ap" if words & {"ap", "advprop"} else "_640" if words & {"640", "coco640"} else ""
    for name in exact:
        if name.endswith(suffix) and name.removesuffix(suffix) in words:
            return name
    return None


def _effective(config: EfficientDetConfig, key: str) -> Any:
    value = getattr(config, key)
    return "fastattn" if key == "fpn_weight_method" and value is None else value


def _read(shapes: Mapping[str, Shape]) -> dict[str, Any] | None:
    """Config fields that change names or shapes; None where this is no whole EfficientDet."""

    def numbers(pattern: str) -> list[int]:
        return sorted({int(match[1]) for name in shapes if (match := re.match(pattern, name))})

    levels = numbers(r"class_net/class-0-bn-(\d+)/")
    cells, nodes = numbers(r"fpn_cells/cell_(\d+)/"), numbers(r"fpn_cells/cell_0/fnode(\d+)/")
    separable = "class_net/class-predict/depthwise_kernel" in shapes
    kernel = shapes.get(f"class_net/class-predict/{'pointwise_kernel' if separable else 'kernel'}", ())
    if not levels or not cells or len(kernel) != 4:
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
        "box_class_repeats": len(numbers(r"class_net/class-(\d+)/")),
        "separable_conv": separable,
        "apply_bn_for_resampling": any(re.search(r"resample_\w+/bn/", name) for name in shapes),
        "conv_bn_act_pattern": not any(re.search(r"/op_after_combine\d+/conv/bias$", name) for name in shapes),
        "fpn_name": names[0],
        "fpn_weight_method": method,
    }
