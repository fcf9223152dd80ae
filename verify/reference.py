"""EfficientDet in plain TensorFlow ops: the independent reference that every port is compared with.

Written from google/automl's description of the model (`efficientdet_arch.py`, `backbone/efficientnet_model.py`,
6a54c87). It shares no layout, padding, numbering or mapping code with the PyTorch side and imports nothing of it:
it gets a config as plain values and variables by their TensorFlow names. TensorFlow is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from verify.reference_backbone import Block, blocks
from verify.reference_fpn import Node, nodes
from verify.reference_ops import BatchNormWatcher, Ops, Reader, Tensor


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
        self, config: Mapping[str, Any], read: Reader, dtype: str = "float32", backbone_scope: str | None = None,
        on_batch_norm: BatchNormWatcher | None = None,
    ) -> None:
        self.config = config
        self.ops = Ops(read, dtype, config["act_type"], on_batch_norm)
        self.scope = backbone_scope or config["backbone_name"]
        self.levels = range(config["min_level"], config["max_level"] + 1)
        self.nodes = nodes(config)

    def layers(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Every intermediate result by its stable name, as it is computed; nothing is kept longer than needed.

        Args:
            images: [N, H, W, 3], normalised.

        Yields:
            stable name and NHWC array, in the order of the PyTorch model's evaluation: stem, blocks, pyramid
            inputs, nodes, then for class_net and box_net level by level the repeats and the prediction.

        Raises:
            ValueError: the image size or the config makes no model in TensorFlow either.
        """
        sizes = _feature_sizes(images.shape[1], images.shape[2], self.levels[-1])
        x = self.ops.tf.constant(images, self.ops.dtype)
        feats = yield from self._backbone(x)
        pyramid = yield from self._pyramid_inputs(feats, sizes)
        del feats, x
        for cell in range(self.config["fpn_cell_repeats"]):
            pyramid = yield from self._cell(cell, pyramid, sizes)
        for net, prefix in (("class_net", "class"), ("box_net", "box")):
            for level, feature in zip(self.levels, pyramid, strict=True):
                yield from self._head(net, prefix, level, feature)

    def _backbone(self, x: Tensor) -> Iterator[tuple[str, np.ndarray]]:
        ops, stem = self.ops, f"{self.scope}/stem"
        x = ops.activate(ops.batch_norm(ops.conv(x, f"{stem}/conv2d", 2), f"{stem}/tpu_batch_normalization"))
        yield "backbone.stem", x.numpy()
        feats = {}
        for block in blocks(self.config["backbone_name"]):
            x = self._block(x, block)
            yield f"backbone.blocks.{block.stage}.{block.index}", x.numpy()
            if block.reduction in self.levels:
                feats[block.reduction] = x
        return feats

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
        return x + inputs if block.skips else x

    def _pyramid_inputs(
        self, feats: dict[int, Tensor], sizes: list[tuple[int, int]]
    ) -> Iterator[tuple[str, np.ndarray]]:
        pyramid: list[Tensor] = []
        for level in self.levels:
            if level in feats:
                pyramid.append(feats[level])
            else:
                pyramid.append(self._resample(pyramid[-1], f"resample_p{level}", sizes[level]))
            yield f"fpn.input.level.{level}", pyramid[-1].numpy()
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
    ) -> Iterator[tuple[str, np.ndarray]]:
        feats = dict(enumerate(pyramid))
        for node in sorted(self.nodes, key=lambda node: node.stable):
            out = self._node(f"fpn_cells/cell_{cell}/fnode{node.number}", node, feats, sizes[node.level])
            feats[len(pyramid) + node.number] = out
            yield f"fpn.cell.{cell}.fnode.{node.stable}", out.numpy()
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
        conv = ops.separable_conv if config["separable_conv"] else ops.conv
        x = ops.batch_norm(conv(x, f"{after}/conv", bias=not activation_last), f"{after}/bn")
        return ops.activate(x) if activation_last else x

    def _head(self, net: str, prefix: str, level: int, x: Tensor) -> Iterator[tuple[str, np.ndarray]]:
        ops = self.ops
        conv = ops.separable_conv if self.config["separable_conv"] else ops.conv
        for repeat in range(self.config["box_class_repeats"]):
            before = x
            x = conv(x, f"{net}/{prefix}-{repeat}", bias=True)
            x = ops.activate(ops.batch_norm(x, f"{net}/{prefix}-{repeat}-bn-{level}"))
            if repeat > 0 and self.config["survival_prob"]:
                x = x + before
            yield f"{net}.conv_rep.{repeat}.level.{level}", x.numpy()
        yield f"{net}.predict.level.{level}", conv(x, f"{net}/{prefix}-predict", bias=True).numpy()


def _feature_sizes(height: int, width: int, max_level: int) -> list[tuple[int, int]]:
    """(height, width) of every level from 0 on (google/automl utils.py `get_feat_sizes`)."""
    sizes = [(height, width)]
    for _ in range(max_level):
        height, width = (height - 1) // 2 + 1, (width - 1) // 2 + 1
        sizes.append((height, width))
    return sizes
