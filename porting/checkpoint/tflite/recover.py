"""From the operators of a TFLite file to the variables of an EfficientDet, under their canonical names.

A TFLite file has no batch norms: each was multiplied into the convolution before it. What comes back is an equivalent
one: mean 0, variance 1 - epsilon, so that it scales by gamma alone. Gamma is 1, and in the heads, where one convolution
serves all levels, each level's share of it. The means and variances of the training are in no such file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from effdet_model.errors import InputError
from effdet_model.fpn_graph import feature_sizes
from porting.checkpoint.tflite.backbone import Backbone, Block, find_backbone, follows_google
from porting.checkpoint.tflite.flatbuffer import Graph, read_graph
from porting.checkpoint.tflite.fusion import fusion_weights
from porting.checkpoint.tflite.heads import NETS, Ends, Layer, Tower, find_ends, find_levels, find_tower
from porting.checkpoint.tflite.pyramid import Pyramid, find_pyramid
from porting.checkpoint.tflite.walk import Conv, Walk

EPSILON = 1e-3
"""Of the batch norms of google/automl's models."""
SCOPE = "backbone"
"""First part of the backbone's names here; a TFLite file tells no other that could be trusted."""
_MAX_SIDE = 8192
_SHARED = {"float32": 3e-6, "float16": 3e-3, "int8": 2e-2}
"""How far the heads' kernels of different levels may be from multiples of one another, relative to the largest."""


@dataclass
class Recovered:
    """`variables`: canonical name -> float32 array. `fields`: config fields that the graph decides.

    `precision`: "float32", "float16" or "int8" (of the constants). `ends`: the graph's predictions.
    """

    variables: dict[str, np.ndarray] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    ends: Ends | None = None


def recover(graph: Graph, label: str) -> Recovered:
    """The EfficientDet that a graph is.

    Raises:
        InputError: an operator that an EfficientDet has not, or one that is left over.
    """
    walk = Walk(graph)
    image, size = _image(graph, label)
    ends = find_ends(walk, label)
    levels = find_levels(walk, ends.predictions["box_net"], size, label)
    towers = {net: [find_tower(walk, number) for number in ends.predictions[net]] for net in NETS}
    whole: dict[str, list[Tower]] = {net: [tower for tower in found if tower] for net, found in towers.items()}
    features = [tuple(tower.feature for tower in whole[net]) for net in NETS]
    if any(len(found) != len(levels) for found in whole.values()) or features[0] != features[1]:
        raise _no_part(label, "heads of separable convolutions on the features of each level")
    pyramid = find_pyramid(walk, features[0], levels)
    if pyramid is None:
        raise _no_part(label, "a BiFPN or QuFPN, its features added and put through a separable convolution")
    backbone = find_backbone(walk, pyramid.features[-1], image)
    if backbone is None or not set(pyramid.features) <= backbone.endpoints:
        raise _no_part(label, "an EfficientNet, its stem on the image and its blocks' outputs into the BiFPN")
    expected = feature_sizes(size, levels[-1])
    sizes = [walk.place(number) for number in pyramid.features]
    right = sizes == [expected[level] for level in levels[: len(sizes)]]
    if not right or not follows_google(walk, backbone, pyramid.features):
        raise _no_part(label, "an EfficientNet with strides, residuals and features where google/automl has them")
    seen = set(ends.seen) | pyramid.seen | backbone.seen
    activations = set(backbone.activations)
    for tower in (tower for found in whole.values() for tower in found):
        seen |= tower.seen
        activations |= tower.activations
    activations |= {node.activation for cell in pyramid.cells for node in cell.nodes}
    _check_left_over(graph, seen, label)
    if len(activations) != 1:
        raise _no_part(label, "one activation in the whole network")
    found = Recovered(precision=_precision(graph), ends=ends)
    _Builder(walk, found, levels, label).build(backbone, pyramid, whole)
    found.fields = {"image_size": size, "act_type": activations.pop()}
    if pyramid.conv_after_downsample is not None:
        found.fields["conv_after_downsample"] = pyramid.conv_after_downsample
    return found


def _no_part(label: str, part: str) -> InputError:
    return InputError(
        f"{label}: expected the operators of google/automl's EfficientDet, found none that are {part}; only such "
        "models can be recovered from their operators."
    )


def _image(graph: Graph, label: str) -> tuple[int, tuple[int, int]]:
    """The tensor of the images and their (height, width)."""
    if len(graph.inputs) == 1:
        shape = graph.tensors[graph.inputs[0]].shape
        if len(shape) == 4 and shape[3] == 3 and all(0 < side <= _MAX_SIDE for side in shape[1:3]):
            return graph.inputs[0], (shape[1], shape[2])
    shown = [list(graph.tensors[number].shape) for number in graph.inputs[:4]]
    raise InputError(
        f"{label}: expected one input of images [1, height, width, 3], found {shown}; convert the model again with a "
        "fixed image size."
    )


def _check_left_over(graph: Graph, seen: set[int], label: str) -> None:
    """Every operator is part of the network that was found."""
    left = [operator for operator in graph.operators if operator.place not in seen]
    if left:
        shown = ", ".join(f"{operator.name} {operator.place}" for operator in left[:4])
        raise InputError(
            f"{label}: expected operators of an EfficientDet alone, found {len(left)} that are no part of it ({shown}"
            "); such a model cannot be recovered whole."
        )


def read_precision(path: Path) -> str:
    """Of the convolutions' kernels of a .tflite file: "float32", "float16" or "int8".

    Raises:
        InputError: no whole TFLite model.
    """
    return _precision(read_graph(path, str(path)))


def _precision(graph: Graph) -> str:
    """Of the convolutions' kernels."""
    types = set()
    for operator in graph.operators:
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            tensor = graph.tensors[operator.inputs[1]]
            producer = graph.producers.get(operator.inputs[1])
            types.add((graph.tensors[producer.inputs[0]] if producer else tensor).type)
    return "int8" if types & {"INT8", "UINT8", "INT16"} else "float16" if "FLOAT16" in types else "float32"


class _Builder:
    """Fills the variables of all parts."""

    def __init__(self, walk: Walk, found: Recovered, levels: Sequence[int], label: str) -> None:
        self.walk, self.found, self.levels, self.label = walk, found, levels, label
        self.shares: dict[int, float] = {}

    def build(self, backbone: Backbone, pyramid: Pyramid, towers: Mapping[str, Sequence[Tower]]) -> None:
        weights = fusion_weights(pyramid, self.shares, self.label)
        self._backbone(backbone)
        for level, conv in sorted(pyramid.extra.items()):
            self._resample(conv, f"resample_p{level}")
        for number, cell in enumerate(pyramid.cells):
            for node in cell.nodes:
                index = pyramid.graph.nodes[node.number].tf_index
                scope, features = f"fpn_cells/cell_{number}/fnode{index}", len(self.levels) + index
                for place, value in enumerate(weights.get((number, node.number), ())):
                    self._put(f"{scope}/WSM" + (f"_{place}" if place else ""), np.asarray(value))
                for place, edge in enumerate(node.edges):
                    if edge.conv:
                        self._resample(edge.conv, f"{scope}/resample_{place}_{edge.offset}_{features}")
                after = f"{scope}/op_after_combine{features}"
                self._separable(Layer(node.depthwise, node.pointwise), f"{after}/conv", f"{after}/bn")
        for net, prefix in zip(NETS, ("class", "box"), strict=True):
            self._head(net, prefix, towers[net])

    def _backbone(self, backbone: Backbone) -> None:
        self._folded(backbone.stem, f"{SCOPE}/stem/conv2d/kernel", f"{SCOPE}/stem/tpu_batch_normalization")
        for number, block in enumerate(backbone.blocks):
            self._block(block, f"{SCOPE}/blocks_{number}")

    def _block(self, block: Block, scope: str) -> None:
        norms = [f"{scope}/tpu_batch_normalization" + (f"_{place}" if place else "") for place in range(3)]
        project = "conv2d"
        if block.expand:
            self._folded(block.expand, f"{scope}/conv2d/kernel", norms.pop(0))
            project = "conv2d_1"
        self._folded(block.depthwise, f"{scope}/depthwise_conv2d/depthwise_kernel", norms.pop(0))
        for conv, layer in ((block.reduce, "conv2d"), (block.restore, "conv2d_1")):
            if conv:
                kernel, bias = self._values(conv)
                self._put(f"{scope}/se/{layer}/kernel", kernel)
                self._put(f"{scope}/se/{layer}/bias", bias)
        self._folded(block.project, f"{scope}/{project}/kernel", norms.pop(0))

    def _resample(self, conv: Conv, scope: str) -> None:
        self._folded(conv, f"{scope}/conv2d/kernel", f"{scope}/bn", bias=f"{scope}/conv2d/bias")

    def _separable(self, layer: Layer, scope: str, norm: str) -> None:
        depthwise, before = self._values(layer.depthwise)
        kernel, bias = self._values(layer.pointwise)
        self._put(f"{scope}/depthwise_kernel", depthwise)
        self._put(f"{scope}/pointwise_kernel", kernel)
        self._put(f"{scope}/bias", np.zeros(len(bias)))
        self._norm(norm, np.ones(len(bias)), bias + before @ kernel[0, 0])

    def _head(self, net: str, prefix: str, towers: Sequence[Tower]) -> None:
        if len({len(tower.repeats) for tower in towers}) != 1:
            raise _no_part(self.label, "heads with as many repeats at every level")
        for repeat in range(len(towers[0].repeats)):
            scope = f"{net}/{prefix}-{repeat}"
            kernels, biases = self._shared([tower.repeats[repeat] for tower in towers], scope)
            kernel, scales = self._ratios(kernels, scope)
            self._put(f"{scope}/pointwise_kernel", kernel)
            self._put(f"{scope}/bias", np.zeros(kernel.shape[-1]))
            for level, scale, bias in zip(self.levels, scales, biases, strict=True):
                self._norm(f"{scope}-bn-{level}", scale, bias)
        scope = f"{net}/{prefix}-predict"
        kernels, biases = self._shared([tower.predict for tower in towers], scope)
        self._check_same(kernels, scope)
        self._put(f"{scope}/pointwise_kernel", kernels[0])
        self._put(f"{scope}/bias", np.median(biases, axis=0))

    def _shared(self, layers: Sequence[Layer], scope: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Write the levels' one depthwise kernel; pointwise kernels and biases of every level."""
        depthwise, kernels, biases = [], [], []
        for layer in layers:
            own, before = self._values(layer.depthwise)
            kernel, bias = self._values(layer.pointwise)
            depthwise.append(own)
            kernels.append(kernel)
            biases.append(bias + before @ kernel[0, 0])
        self._check_same(depthwise, scope)
        self._put(f"{scope}/depthwise_kernel", depthwise[0])
        return kernels, biases

    def _check_same(self, kernels: Sequence[np.ndarray], scope: str) -> None:
        for kernel in kernels[1:]:
            largest = np.abs(kernels[0]).max(initial=0)
            if kernel.shape != kernels[0].shape or np.abs(kernel - kernels[0]).max(initial=0) > 1e-6 * largest:
                raise _no_part(self.label, f"one {scope} for all levels")

    def _ratios(self, kernels: Sequence[np.ndarray], scope: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """The kernel that all levels share, and how much of it each level has in each output channel.

        Per channel the levels' kernels are multiples of one vector: the first singular one. The level that has most of
        it keeps its size, so that its share is 1.
        """
        if len({kernel.shape for kernel in kernels}) != 1:
            raise _no_part(self.label, f"one {scope} for all levels")
        stacked = np.stack([kernel[0, 0].T for kernel in kernels], axis=1)  # [out, levels, in]
        left, sizes, right = np.linalg.svd(stacked, full_matrices=False)
        share, vector = left[:, :, 0] * sizes[:, :1], right[:, 0]  # [out, levels], [out, in]
        most = np.take_along_axis(share, np.abs(share).argmax(axis=1)[:, None], axis=1)
        share = np.divide(share, most, out=np.ones_like(share), where=most != 0)
        shared = vector * most
        far = np.abs(stacked - share[:, :, None] * shared[:, None, :]).max(initial=0)
        if far > _SHARED[self.found.precision] * np.abs(stacked).max(initial=0):
            raise _no_part(self.label, f"one {scope} for all levels, each with its own batch norm")
        return shared.T[None, None], list(share.T)

    def _folded(self, conv: Conv, kernel: str, norm: str, bias: str | None = None) -> None:
        """A convolution with its batch norm in it: kernel, and an equivalent batch norm."""
        values, offsets = self._values(conv)
        self._put(kernel, values)
        if bias:
            self._put(bias, np.zeros(len(offsets)))
        self._norm(norm, np.ones(len(offsets)), offsets)

    def _norm(self, scope: str, gamma: np.ndarray, beta: np.ndarray) -> None:
        self._put(f"{scope}/gamma", gamma)
        self._put(f"{scope}/beta", beta)
        self._put(f"{scope}/moving_mean", np.zeros(len(gamma)))
        self._put(f"{scope}/moving_variance", np.full(len(gamma), 1.0 - EPSILON))

    def _values(self, conv: Conv) -> tuple[np.ndarray, np.ndarray]:
        """Kernel in TensorFlow's layout and bias, float64, without the fusion weight that was multiplied in."""
        kernel = self.walk.value(conv.kernel)
        depthwise = conv.operator.name == "DEPTHWISE_CONV_2D"
        kernel = kernel.transpose(1, 2, 3, 0)
        channels = kernel.shape[2] if depthwise else kernel.shape[3]
        bias = self.walk.value(conv.bias).reshape(-1) if conv.bias is not None else np.zeros(channels)
        share = self.shares.get(conv.output, 1.0)
        return kernel / share, bias.astype(np.float64) / share

    def _put(self, name: str, value: np.ndarray) -> None:
        if name in self.found.variables:
            raise AssertionError(f"{name} twice")
        self.found.variables[name] = np.array(value, np.float32, order="C")
