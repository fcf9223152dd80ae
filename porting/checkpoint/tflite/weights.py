"""A .tflite file as a store of variables under canonical names, and what its graph says of the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.errors import InputError
from effdet_model.fpn_graph import feature_sizes
from effdet_model.variants import OFFICIAL_VARIANTS, get_config
from mappings.committed import read_committed_table
from porting.checkpoint.stated import Stated, anchor_fields, levels_and_anchors, listed_fields
from porting.checkpoint.tflite.flatbuffer import Graph, decoded, read_graph
from porting.checkpoint.tflite.heads import POSTPROCESS
from porting.checkpoint.tflite.recover import SCOPE, Recovered, recover

_CODER_SCALES = ("y_scale", "x_scale", "h_scale", "w_scale")
_NO_STATISTICS = (
    "a TFLite file has no batch norms; equivalent ones were made (mean 0, variance 1 - epsilon, scale and offset as "
    "the operators have them). The means and variances of the training are in no such file: before training these "
    "weights, freeze the batch norms (--freeze '.*bn' --freeze-statistics) or start from the checkpoint"
)
_APPROXIMATION = {
    "float16": "its weights were rounded to float16: an approximation of the model that it was made from",
    "int8": "its weights are dequantised from int8, per channel: an approximation of the model that it was made from, "
    "and of the file itself, which rounds every feature to 8 bits as well",
}


@dataclass(frozen=True)
class TfliteEntry:
    """One recovered variable: shape and numpy dtype name."""

    shape: tuple[int, ...]
    dtype: str = "float32"


class TfliteWeights:
    """The variables recovered from a .tflite file: `entries` by canonical name, `read(name)`.

    Raises:
        InputError: damaged, or not the operators of an EfficientDet.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.graph = read_graph(path, label)
        self.label = label
        self.recovered = recover(self.graph, label)
        self._arrays = _named(self.recovered.variables)
        self.entries = {name: TfliteEntry(array.shape) for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """A variable, read-only float32."""
        array = self._arrays[name]
        array.flags.writeable = False
        return array

    def close(self) -> None:
        self._arrays = {}

    def stated(self) -> Stated:
        """What the graph says of the model, and what cannot be recovered."""
        found = Stated(dict(self.recovered.fields))
        if self.graph.normalisation:
            mean, deviation = (one[0] if len(set(one)) == 1 else one for one in self.graph.normalisation)
            found.fields |= {"mean_rgb": mean, "stddev_rgb": deviation}
        _add_anchors(found, self.graph, self.recovered, {name: entry.shape for name, entry in self.entries.items()})
        found.notes = [f"the TFLite file's own graph says {listed_fields(found.fields)}", _NO_STATISTICS]
        if self.recovered.precision in _APPROXIMATION:
            found.notes.append(_APPROXIMATION[self.recovered.precision])
        return found


def _named(variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with the name of the backbone that has these shapes; as they are where none has."""
    own = {name.removeprefix(SCOPE): array.shape for name, array in variables.items() if name.startswith(f"{SCOPE}/")}
    scope = next((scope for scope, shapes in _backbones().items() if shapes == own), SCOPE)
    return {
        scope + name.removeprefix(SCOPE) if name.startswith(f"{SCOPE}/") else name: array
        for name, array in variables.items()
    }


@cache
def _backbones() -> dict[str, dict[str, tuple[int, ...]]]:
    """Name of a backbone -> shapes of its variables, by their names without it."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for variant in OFFICIAL_VARIANTS:
        scope = get_config(variant).backbone_name
        if scope not in found:
            shapes = read_committed_table(variant).tensorflow_shapes
            found[scope] = {
                name.removeprefix(scope): shape for name, shape in shapes.items() if name.startswith(f"{scope}/")
            }
    return found


def _add_anchors(found: Stated, graph: Graph, recovered: Recovered, shapes: dict[str, tuple[int, ...]]) -> None:
    """The anchors that the file's own decoding of boxes has as a constant.

    Raises:
        InputError: it decodes boxes otherwise than google/automl.
    """
    operator = recovered.ends.postprocess if recovered.ends else None
    if operator is None or len(operator.inputs) < 3:
        return
    scales = _coder_scales(operator.custom)
    if any(scale != 1.0 for scale in scales):
        raise InputError(
            f"expected box outputs in units of their anchors ({POSTPROCESS} with scales of 1), found scales "
            f"{', '.join(f'{scale:g}' for scale in scales)}: a model of the Object Detection API, whose TFLite files "
            "are not ported; name its checkpoint."
        )
    table = graph.tensors[operator.inputs[2]]
    levels, count = levels_and_anchors(shapes)
    size = recovered.fields["image_size"]
    sizes = feature_sizes(size, max(levels, default=0))
    total = count * sum(sizes[level][0] * sizes[level][1] for level in levels)
    if table.content is None or not count or table.shape != (total, 4):
        return
    centers = decoded(table).astype(np.float64) * (*size, *size)
    boxes = np.concatenate([centers[:, :2] - centers[:, 2:] / 2, centers[:, :2] + centers[:, 2:] / 2], axis=1)
    fields = anchor_fields(boxes.astype(np.float32), size, levels, count)
    found.fields |= fields or {}


def _coder_scales(options: bytes) -> list[float]:
    """The scales of boxes in the options of the decoding operator; [] where they say none that can be read."""
    from flatbuffers import flexbuffers

    try:
        values: Any = flexbuffers.Loads(options)
        return [float(values[name]) for name in _CODER_SCALES if name in values]
    except Exception:  # a reader for whatever bytes stand there, of another's making
        return []
