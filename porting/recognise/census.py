"""Which variant a checkpoint is, by a census of its shapes, and what its heads say of classes and anchors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from effdet_model.errors import InputError
from effdet_model.variants import OFFICIAL_VARIANTS
from mappings.committed import read_committed_table, table_name

Shape = tuple[int, ...]

_PREDICTIONS = ("class-predict", "box-predict")


@dataclass(frozen=True)
class Heads:
    """What the prediction layers' shapes say."""

    num_classes: int
    anchors_per_location: int


def read_heads(shapes: Mapping[str, Shape], label: str) -> Heads:
    """Class count and anchors per location from the prediction layers of canonical names and shapes.

    Raises:
        InputError: a prediction layer is missing, or the two do not fit together.
    """
    outputs = {}
    for layer in _PREDICTIONS:
        net = layer.replace("-predict", "_net")
        kernels = [f"{net}/{layer}/{leaf}" for leaf in ("pointwise_kernel", "kernel", "bias")]
        found = [shapes[name][-1] for name in kernels if shapes.get(name)]
        if not found:
            raise InputError(
                f"{label}: expected an EfficientDet checkpoint with {net}/{layer}, found {len(shapes)} variables "
                "without it; a backbone alone cannot be ported."
            )
        outputs[layer] = found[0]
    anchors, left = divmod(outputs["box-predict"], 4)
    classes, left_classes = divmod(outputs["class-predict"], anchors) if anchors else (0, 1)
    if left or left_classes:
        raise InputError(
            f"{label}: expected box-predict outputs = anchors x 4 and class-predict outputs = anchors x classes, "
            f"found {outputs['box-predict']} and {outputs['class-predict']}; the heads do not belong together."
        )
    return Heads(classes, anchors)


@dataclass(frozen=True)
class Census:
    """The outcome of a census.

    Attributes:
        variants: official variants with exactly these shapes (heads' outputs aside), in the catalogue's order.
        nearest: the variant that shares most shapes; similarity: shared over all, 0 to 1.
    """

    variants: tuple[str, ...]
    nearest: str
    similarity: float


def take_census(shapes: Mapping[str, Shape]) -> Census:
    """Compare a checkpoint's shapes with those of every official variant; names do not count."""
    mine = _counted(shapes)
    scores = {}
    for name in OFFICIAL_VARIANTS:
        theirs = _table_census(table_name(name))
        scores[name] = sum((mine & theirs).values()) / max(1, sum((mine | theirs).values()))
    nearest = max(scores, key=lambda name: scores[name])
    exact = tuple(name for name, score in scores.items() if score == 1.0)
    return Census(exact, nearest, scores[nearest])


@cache
def _table_census(name: str) -> Counter[Shape]:
    return _counted(read_committed_table(name).tensorflow_shapes)


def _counted(shapes: Mapping[str, Shape]) -> Counter[Shape]:
    return Counter(
        shape for name, shape in shapes.items() if not any(layer in name for layer in _PREDICTIONS)
    )
