"""Which variants have exactly a file's shapes: a census over all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.fit import Shape
from effdet_model.variants import OFFICIAL_VARIANTS, PYTORCH_MODELS, get_config
from mappings.committed import read_committed_table, table_name
from porting.recognise.heads import PREDICTIONS, Framework


@dataclass(frozen=True)
class Census:
    """The outcome of a census.

    Attributes:
        variants: variants with exactly these shapes (heads' outputs aside), in the catalogue's order.
        nearest: the variant that shares most shapes; similarity: shared over all, 0 to 1.
    """

    variants: tuple[str, ...]
    nearest: str
    similarity: float


def take_census(shapes: Mapping[str, Shape], framework: Framework) -> Census:
    """Compare a file's shapes with those of every variant.

    Of TensorFlow's variables the shapes alone count (a variable that has another name shows in the accounting), of
    PyTorch's tensors the names too, which tell the models apart that PyTorch alone has.
    """
    mine = _counted(shapes, framework)
    scores = {name: _similarity(mine, _official(table_name(name), framework)) for name in OFFICIAL_VARIANTS}
    if framework == "pytorch" and max(scores.values()) < 1.0:
        build = [name for name in PYTORCH_MODELS if _plausible(shapes, get_config(name))]
        scores |= {name: _similarity(mine, _counted(model_shapes(get_config(name)), framework)) for name in build}
    nearest = max(scores, key=lambda name: scores[name])
    exact = tuple(name for name, score in scores.items() if score == 1.0)
    return Census(exact, nearest, scores[nearest])


def model_shapes(config: EfficientDetConfig) -> dict[str, Shape]:
    """Key and shape of every tensor of a model's state_dict, in its order; no memory for weights is taken."""
    import torch

    from effdet_model.efficientdet import EfficientDet

    with torch.device("meta"):
        model = EfficientDet(config)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


@cache
def _official(name: str, framework: Framework) -> Counter[Any]:
    table = read_committed_table(name)
    if framework == "tensorflow":
        return _counted(table.tensorflow_shapes, framework)
    return _counted({row.pytorch_key: row.pytorch_shape for row in table.rows}, framework)


def _counted(shapes: Mapping[str, Shape], framework: Framework) -> Counter[Any]:
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(PREDICTIONS[framework])}
    return Counter(kept.values()) if framework == "tensorflow" else Counter(kept.items())


def _similarity(a: Counter[Any], b: Counter[Any]) -> float:
    return sum((a & b).values()) / max(1, sum((a | b).values()))


def _plausible(shapes: Mapping[str, Shape], config: EfficientDetConfig) -> bool:
    """Whether building the model is worth the time: filters, cells and repeats fit."""
    separable = "class_net.predict.conv_pw.weight" in shapes
    kernel = shapes.get(f"class_net.predict.{'conv_pw' if separable else 'conv'}.weight", (0, 0))
    cells = {match[1] for key in shapes if (match := re.match(r"fpn\.cell\.(\d+)\.", key))}
    repeats = {match[1] for key in shapes if (match := re.match(r"class_net\.conv_rep\.(\d+)\.", key))}
    return (config.separable_conv, config.fpn_num_filters, config.fpn_cell_repeats, config.box_class_repeats) == (
        separable, kernel[1] if len(kernel) > 1 else 0, len(cells), len(repeats),
    )  # fmt: skip
