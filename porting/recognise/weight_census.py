"""Which variant a PyTorch weight file is, by the names and shapes of its tensors alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from effdet_model.config import EfficientDetConfig
from effdet_model.variants import OFFICIAL_VARIANTS, PYTORCH_MODELS, get_config
from mappings.committed import read_committed_table, table_name
from porting.recognise.census import Heads

Shape = tuple[int, ...]

_PREDICTIONS = ("class_net.predict.", "box_net.predict.")


@dataclass(frozen=True)
class WeightCensus:
    """The outcome of `take_weight_census`.

    Attributes:
        variants: models with exactly these tensors (the heads' outputs aside), in the catalogue's order.
        nearest: the model that shares most tensors; similarity: shared over all, 0 to 1.
        heads: class count and anchors per location; None where the prediction layers do not tell.
    """

    variants: tuple[str, ...]
    nearest: str
    similarity: float
    heads: Heads | None


def take_weight_census(shapes: Mapping[str, Shape]) -> WeightCensus:
    """Compare the tensors of a state_dict (key -> PyTorch shape) with those of every model by name."""
    mine = _without_outputs(shapes)
    scores = {name: _similarity(mine, _official(table_name(name))) for name in OFFICIAL_VARIANTS}
    if max(scores.values()) < 1.0:
        build = [name for name in PYTORCH_MODELS if _plausible(shapes, get_config(name))]
        scores |= {name: _similarity(mine, _without_outputs(model_shapes(get_config(name)))) for name in build}
    nearest = max(scores, key=lambda name: scores[name])
    exact = tuple(name for name, score in scores.items() if score == 1.0)
    return WeightCensus(exact, nearest, scores[nearest], read_weight_heads(shapes))


def read_weight_heads(shapes: Mapping[str, Shape]) -> Heads | None:
    """Class count and anchors per location from the prediction layers of a state_dict; None: they do not tell."""
    outputs = []
    for layer in _PREDICTIONS:
        found = [shapes[key] for leaf in ("conv_pw.bias", "conv.bias") if len(shapes.get(key := layer + leaf, ())) == 1]
        if not found:
            return None
        outputs.append(found[0][0])
    anchors, left = divmod(outputs[1], 4)
    if left or not anchors or outputs[0] % anchors:
        return None
    return Heads(outputs[0] // anchors, anchors)


def heads_overrides(config: EfficientDetConfig, heads: Heads | None) -> dict[str, object]:
    """Config fields that give `config` these heads; scales and ratios are assumed where anchors differ."""
    if heads is None:
        return {}
    fields: dict[str, object] = {}
    if heads.num_classes != config.num_classes:
        fields["num_classes"] = heads.num_classes
    if heads.anchors_per_location != config.anchors_per_location:
        ratios = len(config.aspect_ratios)
        scales, left = divmod(heads.anchors_per_location, ratios)
        if left:
            scales, fields["aspect_ratios"] = heads.anchors_per_location, config.aspect_ratios[:1]
        fields["num_scales"] = scales
    return fields


def model_shapes(config: EfficientDetConfig) -> dict[str, Shape]:
    """Key and shape of every tensor of a model's state_dict, in its order; no memory for weights is taken."""
    import torch

    from effdet_model.efficientdet import EfficientDet

    with torch.device("meta"):
        model = EfficientDet(config)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def foreign_prefix(keys: Sequence[str]) -> str:
    """What training wrappers put before all names (`module.`, `model.`); "" where nothing."""
    match = re.match(r"((?:module\.|model\.|ema\.)+)", keys[0]) if keys else None
    return match[1] if match and all(key.startswith(match[1]) for key in keys) else ""


def _without_outputs(shapes: Mapping[str, Shape]) -> set[tuple[str, Shape]]:
    return {(key, shape) for key, shape in shapes.items() if not key.startswith(_PREDICTIONS)}


def _similarity(a: set[tuple[str, Shape]], b: set[tuple[str, Shape]]) -> float:
    return len(a & b) / max(1, len(a | b))


@cache
def _official(name: str) -> set[tuple[str, Shape]]:
    return _without_outputs({row.pytorch_key: row.pytorch_shape for row in read_committed_table(name).rows})


def _plausible(shapes: Mapping[str, Shape], config: EfficientDetConfig) -> bool:
    """Whether building the model is worth the time: filters, cells and repeats fit."""
    separable = "class_net.predict.conv_pw.weight" in shapes
    kernel = shapes.get(f"class_net.predict.{'conv_pw' if separable else 'conv'}.weight", (0, 0))
    cells = {match[1] for key in shapes if (match := re.match(r"fpn\.cell\.(\d+)\.", key))}
    repeats = {match[1] for key in shapes if (match := re.match(r"class_net\.conv_rep\.(\d+)\.", key))}
    return (config.separable_conv, config.fpn_num_filters, config.fpn_cell_repeats, config.box_class_repeats) == (
        separable, kernel[1] if len(kernel) > 1 else 0, len(cells), len(repeats),
    )  # fmt: skip
