"""Which TensorFlow scope fills which PyTorch module: the whole name map, as data and three short walks.

TensorFlow names: google/automl `efficientdet_arch.py` and `backbone/efficientnet_model.py` (6a54c87).
PyTorch names: timm's EfficientNet and effdet 0.4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from effdet_model.config import EfficientDetConfig
from effdet_model.fpn_graph import FpnNode, resample_keys


@dataclass(frozen=True)
class Unit:
    """A PyTorch module, the TensorFlow scope that fills it, and what kind of unit it is (a key of `LEAVES`)."""

    module: str
    scope: str
    kind: str


# unit kind: (PyTorch leaf, TensorFlow leaf, layout kind)
LEAVES: dict[str, tuple[tuple[str, str | None, str], ...]] = {
    "conv": (("weight", "kernel", "conv"),),
    "conv_with_bias": (("weight", "kernel", "conv"), ("bias", "bias", "bias")),
    "depthwise_conv": (("weight", "depthwise_kernel", "depthwise"),),
    "separable_conv": (
        ("conv_dw.weight", "depthwise_kernel", "depthwise"),
        ("conv_pw.weight", "pointwise_kernel", "pointwise"),
    ),
    "separable_conv_with_bias": (
        ("conv_dw.weight", "depthwise_kernel", "depthwise"),
        ("conv_pw.weight", "pointwise_kernel", "pointwise"),
        ("conv_pw.bias", "bias", "bias"),
    ),
    "batch_norm": (
        ("weight", "gamma", "batch_norm"),
        ("bias", "beta", "batch_norm"),
        ("running_mean", "moving_mean", "batch_norm"),
        ("running_var", "moving_variance", "batch_norm"),
        ("num_batches_tracked", None, "counter"),
    ),
}

# (PyTorch child, TensorFlow child, unit kind) of a backbone block, without and with expansion
_PLAIN_BLOCK = (
    ("conv_dw", "depthwise_conv2d", "depthwise_conv"),
    ("bn1", "tpu_batch_normalization", "batch_norm"),
    ("conv_pw", "conv2d", "conv"),
    ("bn2", "tpu_batch_normalization_1", "batch_norm"),
)
_EXPANDED_BLOCK = (
    ("conv_pw", "conv2d", "conv"),
    ("bn1", "tpu_batch_normalization", "batch_norm"),
    ("conv_dw", "depthwise_conv2d", "depthwise_conv"),
    ("bn2", "tpu_batch_normalization_1", "batch_norm"),
    ("conv_pwl", "conv2d_1", "conv"),
    ("bn3", "tpu_batch_normalization_2", "batch_norm"),
)
_SQUEEZE_EXCITE = (
    ("se.conv_reduce", "se/conv2d", "conv_with_bias"),
    ("se.conv_expand", "se/conv2d_1", "conv_with_bias"),
)


def backbone_units(scope: str, blocks: list[list[set[str]]]) -> Iterator[Unit]:
    """The backbone's units.

    Args:
        scope: the backbone's TensorFlow scope, e.g. "efficientnet-b0".
        blocks: for every stage, for every block, the names of its PyTorch children.
    """
    yield Unit("backbone.conv_stem", f"{scope}/stem/conv2d", "conv")
    yield Unit("backbone.bn1", f"{scope}/stem/tpu_batch_normalization", "batch_norm")
    number = 0
    for stage, stage_blocks in enumerate(blocks):
        for index, children in enumerate(stage_blocks):
            rows = _EXPANDED_BLOCK if "conv_pwl" in children else _PLAIN_BLOCK
            if "se.conv_reduce" in children:
                rows = (*rows, *_SQUEEZE_EXCITE)
            for child, tf_child, kind in rows:
                yield Unit(f"backbone.blocks.{stage}.{index}.{child}", f"{scope}/blocks_{number}/{tf_child}", kind)
            number += 1


def fpn_units(config: EfficientDetConfig, backbone_channels: list[int]) -> Iterator[Unit]:
    """The feature network's units: extra levels, then every cell."""
    channels = list(backbone_channels)
    filters = config.fpn_num_filters
    for place in range(len(channels), config.num_levels):
        if channels[-1] != filters:
            yield from _resample_units(config, f"fpn.resample.{place}", f"resample_p{config.min_level + place}")
        channels.append(filters)
    for cell in range(config.fpn_cell_repeats):
        known = list(channels) if cell == 0 else [filters] * config.num_levels
        for index, node in enumerate(config.fpn_graph().nodes):
            module = f"fpn.cell.{cell}.fnode.{index}"
            yield from _node_units(config, node, module, f"fpn_cells/cell_{cell}/fnode{node.tf_index}", known)


def _resample_units(config: EfficientDetConfig, module: str, scope: str) -> Iterator[Unit]:
    yield Unit(f"{module}.conv.conv", f"{scope}/conv2d", "conv_with_bias")
    if config.apply_bn_for_resampling:
        yield Unit(f"{module}.conv.bn", f"{scope}/bn", "batch_norm")


def _node_units(
    config: EfficientDetConfig, node: FpnNode, module: str, scope: str, channels: list[int]
) -> Iterator[Unit]:
    features = config.num_levels + node.tf_index
    for place, (key, offset) in enumerate(zip(resample_keys(node.inputs_offsets), node.inputs_offsets, strict=True)):
        if offset < len(channels) and channels[offset] != config.fpn_num_filters:
            yield from _resample_units(
                config, f"{module}.combine.resample.{key}", f"{scope}/resample_{place}_{offset}_{features}"
            )
    conv = "separable_conv" if config.separable_conv else "conv"
    bias = "" if config.conv_bn_act_pattern else "_with_bias"
    after = f"{scope}/op_after_combine{features}"
    inner = "conv" if config.separable_conv else "conv.conv"
    yield Unit(f"{module}.after_combine.{inner}", f"{after}/conv", conv + bias)
    yield Unit(f"{module}.after_combine.conv.bn", f"{after}/bn", "batch_norm")


def edge_weight_names(config: EfficientDetConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(PyTorch key, TensorFlow variables) of every fusion weight; TensorFlow has one variable per input."""
    for cell in range(config.fpn_cell_repeats):
        for index, node in enumerate(config.fpn_graph().nodes):
            if node.weight_method == "sum":
                continue
            scope = f"fpn_cells/cell_{cell}/fnode{node.tf_index}"
            names = tuple(f"{scope}/WSM" + (f"_{i}" if i else "") for i in range(len(node.inputs_offsets)))
            yield f"fpn.cell.{cell}.fnode.{index}.combine.edge_weights", names


def head_units(config: EfficientDetConfig) -> Iterator[Unit]:
    """The heads' units: convolutions shared by all levels, a batch norm for each repeat and level."""
    conv = "separable_conv_with_bias" if config.separable_conv else "conv_with_bias"
    inner = "" if config.separable_conv else ".conv"
    for net, prefix in (("class_net", "class"), ("box_net", "box")):
        for repeat in range(config.box_class_repeats):
            yield Unit(f"{net}.conv_rep.{repeat}{inner}", f"{net}/{prefix}-{repeat}", conv)
            for place, level in enumerate(config.levels):
                scope = f"{net}/{prefix}-{repeat}-bn-{level}"
                yield Unit(f"{net}.bn_rep.{repeat}.{place}.bn", scope, "batch_norm")
        yield Unit(f"{net}.predict{inner}", f"{net}/{prefix}-predict", conv)
