"""The mapping of one config as a table: one row per PyTorch tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from mappings.layouts import LAYOUTS, Shape
from mappings.rules import LEAVES, Unit, backbone_units, edge_weight_names, fpn_units, head_units

if TYPE_CHECKING:
    from effdet_model.efficientdet import EfficientDet


@dataclass(frozen=True)
class Row:
    """One PyTorch tensor and the TensorFlow variables that fill it.

    Attributes:
        pytorch_key: key in the state_dict.
        tensorflow_names: canonical variable names; several for fusion weights, none for counters.
        kind: a key of `mappings.layouts.LAYOUTS`.
        pytorch_shape: shape of the tensor.
        tensorflow_shape: shape of each variable.
    """

    pytorch_key: str
    tensorflow_names: tuple[str, ...]
    kind: str
    pytorch_shape: Shape
    tensorflow_shape: Shape


@dataclass(frozen=True)
class MappingTable:
    """All rows of a config, in the order of the state_dict."""

    variant: str
    rows: tuple[Row, ...]

    @property
    def tensorflow_shapes(self) -> dict[str, Shape]:
        """Every TensorFlow variable that the table consumes, with its shape."""
        return {name: row.tensorflow_shape for row in self.rows for name in row.tensorflow_names}

    def counts(self) -> dict[str, int]:
        """How many PyTorch tensors each layout kind has."""
        return dict(sorted(Counter(row.kind for row in self.rows).items()))


def build_table(config: EfficientDetConfig) -> MappingTable:
    """The mapping table of a config.

    Raises:
        InputError: TensorFlow's official model has no such architecture.
    """
    if not config.is_official:
        raise InputError(
            f"mapping of {config.name}: expected an architecture that google/automl's TensorFlow model has (an "
            f"efficientnet-* backbone, SAME padding, redundant bias, batch norm), found backbone "
            f"{config.backbone_name}, pad_type {config.pad_type!r}, redundant_bias {config.redundant_bias}; "
            "models that exist in PyTorch only have nothing to convert."
        )
    import torch

    from effdet_model.efficientdet import EfficientDet

    with torch.device("meta"):
        model = EfficientDet(config)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    rows = {row.pytorch_key: row for row in _unit_rows(config, model, shapes)}
    for key, names in edge_weight_names(config):
        rows[key] = _row(key, names, "edge_weight", shapes)
    _check_complete(rows, shapes)
    return MappingTable(config.name, tuple(rows[key] for key in shapes))


def _unit_rows(config: EfficientDetConfig, model: EfficientDet, shapes: dict[str, Shape]) -> list[Row]:
    backbone = model.backbone
    children = [
        [{name for name, _ in block.named_modules()} for block in stage]
        for stage in backbone.blocks  # type: ignore[union-attr]
    ]
    channels = list(backbone.feature_info.channels())  # type: ignore[operator, union-attr]
    units: list[Unit] = [
        *backbone_units(config.backbone_name, children),
        *fpn_units(config, channels),
        *head_units(config),
    ]
    seen = Counter(unit.module for unit in units) + Counter(unit.scope for unit in units)
    twice = sorted(name for name, count in seen.items() if count > 1)
    if twice:
        raise AssertionError(f"the rules name twice: {', '.join(twice)}")
    return [
        _row(f"{unit.module}.{leaf}", (f"{unit.scope}/{tf_leaf}",) if tf_leaf else (), kind, shapes)
        for unit in units
        for leaf, tf_leaf, kind in LEAVES[unit.kind]
    ]


def _row(key: str, names: tuple[str, ...], kind: str, shapes: dict[str, Shape]) -> Row:
    if key not in shapes:
        raise AssertionError(f"the rules name {key}, which the model does not have")
    return Row(key, names, kind, shapes[key], LAYOUTS[kind].tensorflow_shape(shapes[key]))


def _check_complete(rows: dict[str, Row], shapes: dict[str, Shape]) -> None:
    uncovered = sorted(set(shapes) - set(rows))
    if uncovered:
        raise AssertionError(f"the rules leave out {', '.join(uncovered[:10])}")
