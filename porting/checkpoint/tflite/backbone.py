"""The backbone of a graph, block by block from its last feature back to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from porting.checkpoint.tflite.walk import Conv, Walk

MAX_BLOCKS = 200


@dataclass(frozen=True)
class Block:
    """An inverted residual block: output and input tensors, its convolutions; expansion and squeeze may be missing.

    `residual`: whether its input is added to its output.
    """

    output: int
    source: int
    expand: Conv | None
    depthwise: Conv
    reduce: Conv | None
    restore: Conv | None
    project: Conv
    activations: frozenset[str]
    seen: frozenset[int]
    residual: bool = False

    @property
    def stride(self) -> tuple[int, int]:
        """Of the depthwise convolution: down, across."""
        down, across = self.depthwise.operator.options["stride"]
        return down, across


@dataclass(frozen=True)
class Backbone:
    """The stem and the blocks, first one first; `endpoints` are the tensors between them."""

    stem: Conv
    blocks: tuple[Block, ...]
    activations: frozenset[str]
    seen: frozenset[int]

    @property
    def endpoints(self) -> set[int]:
        return {block.output for block in self.blocks}


@dataclass
class _Parts:
    """What is found of a block on the way back through it."""

    seen: set[int] = field(default_factory=set)
    activations: set[str] = field(default_factory=set)


def find_backbone(walk: Walk, last: int, image: int) -> Backbone | None:
    """The backbone whose last feature is this tensor; None where the operators are others.

    Args:
        image: the tensor that the graph takes.
    """
    blocks: list[Block] = []
    seen: set[int] = set()
    number = walk.origin(last, seen)
    while len(blocks) < MAX_BLOCKS:
        passed: set[int] = set()
        found, activation = walk.activation(number, passed)
        stem = walk.convolution(found, passed) if activation else None
        if stem is not None and stem.size == (3, 3):
            if activation is None or stem.source != walk.origin(image, passed) or not blocks:
                return None
            activations = frozenset({activation}.union(*(block.activations for block in blocks)))
            seen |= passed.union(*(block.seen for block in blocks))
            return Backbone(stem, tuple(reversed(blocks)), activations, frozenset(seen))
        block = _block(walk, number)
        if block is None:
            return None
        blocks.append(block)
        number = block.source
    return None


def follows_google(walk: Walk, backbone: Backbone, features: Sequence[int]) -> bool:
    """Whether strides, residuals and the features taken are where google/automl's EfficientNets have them.

    A stage begins with other channels; there alone a stride may be, and only elsewhere a residual, of equal channels.
    A feature is the last tensor of its size: the Object Detection API takes others from D1 on.
    """
    for block in backbone.blocks:
        channels = walk.tensor(block.source).shape[-1:], walk.tensor(block.output).shape[-1:]
        if block.stride not in ((1, 1), (2, 2)) or block.residual != (channels[0] == channels[1]):
            return False
        if block.residual and block.stride != (1, 1):
            return False
        if block.source in features and block.stride != (2, 2):
            return False
    return backbone.stem.operator.options["stride"] == (2, 2)


def _block(walk: Walk, output: int) -> Block | None:
    """The block that makes a tensor, with or without its input added."""
    addition = walk.made_by(output, "ADD")
    if addition is None:
        return _branch(walk, output, output, _Parts())
    if addition.options["activation"]:
        return None
    for one, other in (addition.inputs, addition.inputs[::-1]):
        parts = _Parts({addition.place})
        block = _branch(walk, output, walk.origin(one, parts.seen), parts)
        if block and block.source == walk.origin(other, parts.seen):
            return replace(block, residual=True)
    return None


def _branch(walk: Walk, output: int, number: int, parts: _Parts) -> Block | None:
    project = walk.plain_pointwise(number, parts.seen)
    if project is None:
        return None
    number, reduce, restore = _squeeze(walk, project.source, parts)
    number, activation = walk.activation(number, parts.seen)
    depthwise = walk.convolution(number, parts.seen, depthwise=True) if activation else None
    if depthwise is None or activation is None:
        return None
    parts.activations.add(activation)
    source, expand = depthwise.source, None
    passed: set[int] = set()
    inner, activation = walk.activation(source, passed)
    conv = walk.convolution(inner, passed) if activation else None
    if conv is not None and conv.size == (1, 1) and activation:
        parts.activations.add(activation)
        parts.seen |= passed
        source, expand = conv.source, conv
    return Block(
        output, source, expand, depthwise, reduce, restore, project, frozenset(parts.activations), frozenset(parts.seen)
    )


def _squeeze(walk: Walk, number: int, parts: _Parts) -> tuple[int, Conv | None, Conv | None]:
    """What goes into a squeeze-and-excitation, and its two convolutions; the tensor itself where there is none."""
    product = walk.made_by(number, "MUL")
    for gate, value in (product.inputs, product.inputs[::-1]) if product and len(product.inputs) == 2 else ():
        assert product is not None
        passed = {product.place}
        sigmoid = walk.made_by(walk.origin(gate, passed), "LOGISTIC")
        restore = walk.plain_pointwise(sigmoid.inputs[0], passed) if sigmoid else None
        if sigmoid is None or restore is None:
            continue
        inner, activation = walk.activation(restore.source, passed)
        reduce = walk.convolution(inner, passed) if activation else None
        mean = walk.producer(reduce.source) if reduce else None
        value = walk.origin(value, passed)
        if mean is None or mean.name not in ("MEAN", "AVERAGE_POOL_2D") or walk.origin(mean.inputs[0], passed) != value:
            continue
        parts.activations.add(str(activation))
        parts.seen |= passed | {sigmoid.place, mean.place}
        return value, reduce, restore
    return number, None, None
