"""EfficientDet in plain TensorFlow ops: the independent reference that every port is compared with.

Written from google/automl's description of the model (`efficientdet_arch.py`,
`backbone/efficientnet_model.py`, 6a54c87). It shares no layout, padding, numbering or mapping code with the
PyTorch side and imports nothing of it: it gets a config as plain values and variables by their TensorFlow names.
TensorFlow is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from verify.reference.backbone import Block, blocks
from verify.reference.faults import faulty_ops
from verify.reference.fpn import Node, nodes
from verify.reference.ops import BatchNormWatcher, Ops, Reader, Tensor

Layer = tuple[str, np.ndarray]
"""Stable name and NHWC output."""

Result = TypeVar("Result")
Layers = Generator[Layer, np.ndarray | None, Result]


class Reference:
    """One model; variables are read when first needed and kept.

    Args:
        config: plain values with google/automl's names (`EfficientDetConfig.to_dict()`).
        read: gives the array of a variable by its canonical TensorFlow name.
        dtype: "float32" or "float64".
        backbone_scope: first part of the backbone's variable names; the backbone's own name by default.
        on_batch_norm: is shown the scope and output (a TensorFlow tensor) of every batch norm.
    """

    def __init__(
        self, config: Mapping[str, Any], read: Reader, dtype: str = "float32",
        backbone_scope: str | None = None, on_batch_norm: BatchNormWatcher | None = None,
    ) -> None:
        self.config = config
        self.ops = Ops(read, dtype, config["act_type"], on_batch_norm)
        self.scope = backbone_scope or config["backbone_name"]
        self.levels = range(config["min_level"], config["max_level"] + 1)
        self.nodes = nodes(config)
        self._probe: tuple[str, Sequence[str]] | None = None

    @property
    def used(self) -> list[str]:
        """Variables that the latest layer used, in the order of use."""
        return self.ops.used

    @property
    def uses(self) -> list[tuple[str, str]]:
        """For each of `used` the operation that it went into, and its role there."""
        return self.ops.roles

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[Layer]:
        """What `layer` would give with each of some faults (FAULT or FAULT@PLACE) in it alone.

        Yields:
            fault and NHWC array; faults that cannot be computed for this layer are left out.
        """
        self._probe = (layer, faults)
        try:
            yield from (found for found in self.layers(images) if found[0] in faults)
        except _ProbeDone:
            return
        finally:
            self._probe = None

    def layers(self, images: np.ndarray) -> Generator[Layer, np.ndarray | None, None]:
        """Every intermediate result by its stable name, as computed; nothing is kept longer than needed.

        An array that is sent to the generator takes the place of the latest result for all that follows.

        Args:
            images: [N, H, W, 3], normalised.

        Yields:
            stable name and NHWC array, in the order of the PyTorch model's evaluation: stem, blocks, pyramid
            inputs, nodes, then for class_net and box_net level by level the repeats and the prediction.

        Raises:
            ValueError: the image size or the config makes no model in TensorFlow either.
        """
        return self._layers_of(self.ops.tf.constant(images, self.ops.dtype))

    def _layers_of(self, x: Tensor) -> Generator[Layer, np.ndarray | None, None]:
        sizes = _feature_sizes(int(x.shape[1]), int(x.shape[2]), self.levels[-1])
        feats = yield from self._backbone(x)
        pyramid = yield from self._pyramid_inputs(feats, sizes)
        del feats, x
        for cell in range(self.config["fpn_cell_repeats"]):
            pyramid = yield from self._cell(cell, pyramid, sizes)
        for net, prefix in (("class_net", "class"), ("box_net", "box")):
            for level, feature in zip(self.levels, pyramid, strict=True):
                yield from self._head(net, prefix, level, feature)

    def _layer(self, name: str, compute: Callable[[], Tensor]) -> Layers[Tensor]:
        if self._probe and self._probe[0] == name:
            yield from self._faulty(compute, self._probe[1])
            raise _ProbeDone
        self.ops.forget_uses()
        out = compute()
        instead = yield name, out.numpy()
        return out if instead is None else self.ops.tf.constant(instead, self.ops.dtype)

    def _faulty(self, compute: Callable[[], Tensor], faults: Sequence[str]) -> Iterator[Layer]:
        sound = self.ops
        for fault in faults:
            self.ops = faulty_ops(fault, sound)
            try:
                yield fault, compute().numpy()
            except (ValueError, sound.tf.errors.InvalidArgumentError):
                continue  # this fault is impossible here, e.g. no such kernel
            finally:
                self.ops = sound

    def _backbone(self, x: Tensor) -> Layers[dict[int, Tensor]]:
        images = x
        x = yield from self._layer("backbone.stem", lambda: self._stem(images))
        feats = {}
        for block in blocks(self.config["backbone_name"]):

            def compute(inputs: Tensor = x, block: Block = block) -> Tensor:
                return self._block(inputs, block)

            x = yield from self._layer(f"backbone.blocks.{block.stage}.{block.index}", compute)
            if block.reduction is not None and block.reduction in self.levels:
                feats[block.reduction] = x
        return feats

    def _stem(self, images: Tensor) -> Tensor:
        ops, scope = self.ops, f"{self.scope}/stem"
        x = ops.batch_norm(ops.conv(images, f"{scope}/conv2d", 2), f"{scope}/tpu_batch_normalization")
        return ops.activate(x)

    def _block(self, inputs: Tensor, block: Block) -> Tensor:
        ops, scope = self.ops, f"{self.scope}/blocks_{block.number}"
        convs = iter([f"{scope}/conv2d", f"{scope}/conv2d_1"])
        norms = iter(f"{scope}/tpu_batch_normalization{suffix}" for suffix in ("", "_1", "_2"))
        x = inputs
        if block.expands:
            x = ops.activate(ops.batch_norm(ops.conv(x, next(convs)), next(norms)))
        x = ops.depthwise(x, f"{scope}/depthwise_conv2d", block.stride)
        x = ops.activate(ops.batch_norm(x, next(norms)))
        if block.squeezes:
            x = ops.squeeze_excite(x, f"{scope}/se")
        x = ops.batch_norm(ops.conv(x, next(convs)), next(norms))
        return ops.add(x, inputs) if block.skips else x

    def _pyramid_inputs(
        self, feats: dict[int, Tensor], sizes: list[tuple[int, int]]
    ) -> Layers[list[Tensor]]:
        pyramid: list[Tensor] = []
        for level in self.levels:

            def compute(level: int = level) -> Tensor:
                if level in feats:
                    return feats[level]
                return self._resample(pyramid[-1], f"resample_p{level}", sizes[level])

            pyramid.append((yield from self._layer(f"fpn.input.level.{level}", compute)))
        return pyramid

    def _resample(self, x: Tensor, scope: str, size: tuple[int, int]) -> Tensor:
        """To (height, width) and `fpn_num_filters` channels."""
        config = self.config
        needs_conv = int(x.shape[-1]) != config["fpn_num_filters"]

        def convolve(x: Tensor) -> Tensor:
            x = self.ops.conv(x, f"{scope}/conv2d", bias=True)
            return self.ops.batch_norm(x, f"{scope}/bn") if config["apply_bn_for_resampling"] else x

        def keep(x: Tensor) -> Tensor:
            return x

        shrinks = int(x.shape[1]) > size[0] and int(x.shape[2]) > size[1]
        if not needs_conv:
            return self.ops.resize(x, size, keep, keep)
        if shrinks and config["conv_after_downsample"]:
            return self.ops.resize(x, size, keep, convolve)
        return self.ops.resize(x, size, convolve, keep)

    def _cell(
        self, cell: int, pyramid: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Layers[list[Tensor]]:
        feats = dict(enumerate(pyramid))
        for node in sorted(self.nodes, key=lambda node: node.stable):

            def compute(node: Node = node) -> Tensor:
                scope = f"fpn_cells/cell_{cell}/fnode{node.number}"
                return self._node(scope, node, feats, sizes[node.level])

            out = yield from self._layer(f"fpn.cell.{cell}.fnode.{node.stable}", compute)
            feats[len(pyramid) + node.number] = out
        last = {node.level: len(pyramid) + node.number for node in self.nodes}
        return [feats[last[level]] for level in self.levels]

    def _node(self, scope: str, node: Node, feats: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        ops, config = self.ops, self.config
        own = len(self.levels) + node.number
        inputs = [
            self._resample(feats[number], f"{scope}/resample_{place}_{number}_{own}", size)
            for place, number in enumerate(node.inputs)
        ]
        x = ops.fuse(inputs, scope, node.method)
        activation_last = config["conv_bn_act_pattern"]
        after = f"{scope}/op_after_combine{own}"
        if not activation_last:
            x = ops.activate(x)
        x = ops.batch_norm(self._conv(x, f"{after}/conv", bias=not activation_last), f"{after}/bn")
        return ops.activate(x) if activation_last else x

    def _head(self, net: str, prefix: str, level: int, x: Tensor) -> Layers[None]:
        for repeat in range(self.config["box_class_repeats"]):

            def compute(repeat: int = repeat, before: Tensor = x) -> Tensor:
                ops = self.ops
                out = self._conv(before, f"{net}/{prefix}-{repeat}", bias=True)
                out = ops.activate(ops.batch_norm(out, f"{net}/{prefix}-{repeat}-bn-{level}"))
                return ops.add(out, before) if repeat > 0 and self.config["survival_prob"] else out

            x = yield from self._layer(f"{net}.conv_rep.{repeat}.level.{level}", compute)
        last = x
        yield from self._layer(
            f"{net}.predict.level.{level}", lambda: self._conv(last, f"{net}/{prefix}-predict", bias=True)
        )

    def _conv(self, x: Tensor, scope: str, bias: bool) -> Tensor:
        if self.config["separable_conv"]:
            return self.ops.separable_conv(x, scope, bias)
        return self.ops.conv(x, scope, bias=bias)


class ReferenceWithTruth:
    """The same model in float32 and in float64, layer by layer side by side: what float32 costs TensorFlow itself.

    Args:
        config, read, backbone_scope: as for `Reference`.
        isolated: give the float64 model the float32 model's own input of every layer.
    """

    def __init__(
        self, config: Mapping[str, Any], read: Reader, backbone_scope: str | None = None, isolated: bool = False
    ) -> None:
        once = _ReadOnce(read)
        self.single = Reference(config, once, "float32", backbone_scope)
        self.truth = Reference(config, once, "float64", backbone_scope)
        self.isolated = isolated

    @property
    def used(self) -> list[str]:
        """As of `Reference`."""
        return self.single.used

    @property
    def uses(self) -> list[tuple[str, str]]:
        """As of `Reference`."""
        return self.single.uses

    def probe(self, images: np.ndarray, layer: str, faults: Sequence[str]) -> Iterator[Layer]:
        """As of `Reference`, in float32."""
        return self.single.probe(images, layer, faults)

    def layers(self, images: np.ndarray) -> Iterator[Layer]:
        """Every layer twice: in float32, then in float64."""
        truth = self.truth.layers(images)
        instead: np.ndarray | None = None
        for name, output in self.single.layers(images):
            yield name, output
            yield truth.send(instead) if instead is not None else next(truth)
            instead = output if self.isolated else None


class _ReadOnce:
    """Two readers in lockstep: what the first reads is kept until the second has it."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._kept: dict[str, np.ndarray] = {}

    def __call__(self, name: str) -> np.ndarray:
        if name in self._kept:
            return self._kept.pop(name)
        self._kept[name] = self._read(name)
        return self._kept[name]


class _ProbeDone(Exception):
    """Ends a probe after its layer."""


def _feature_sizes(height: int, width: int, max_level: int) -> list[tuple[int, int]]:
    """(height, width) of every level from 0 on (google/automl utils.py `get_feat_sizes`)."""
    sizes = [(height, width)]
    for _ in range(max_level):
        height, width = (height - 1) // 2 + 1, (width - 1) // 2 + 1
        sizes.append((height, width))
    return sizes
