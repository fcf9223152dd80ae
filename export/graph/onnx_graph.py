"""The detections' part of an ONNX model: from the network's levels to the four outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.nms_profiles import NmsProfile
from export.graph.candidates import flat_outputs
from export.graph.nodes import Nodes
from export.graph.suppression import suppress
from export.graph.tensorrt import append_efficient_nms, efficient_nms_profile
from export.outputs import BOXES, CLASSES, NUM_DETECTIONS, SCORES, level_names

OPSET = 18
"""Of everything written here: old enough for the runtimes that people have, new enough for reductions over inputs."""
TENSORRT = "tensorrt"
Suppression = NmsProfile | str
"""A profile, or `TENSORRT`."""


def append_detections(model: Any, config: EfficientDetConfig, suppression: Suppression, keep_levels: bool) -> None:
    """Put detections behind a model whose outputs are the levels.

    Args:
        model: `onnx.ModelProto`, changed in place. config: its image_size is the model's.
        keep_levels: whether the levels stay outputs, behind the detections.
    """
    import onnx

    graph = model.graph
    nodes = detection_nodes(config, suppression)
    graph.node.extend(nodes.nodes)
    graph.initializer.extend(nodes.used_constants())
    levels = list(graph.output)
    batch = levels[0].type.tensor_type.shape.dim[0]
    size = batch.dim_value or batch.dim_param
    del graph.output[:]
    graph.output.extend(output_infos(config, suppression, size))
    if keep_levels:
        graph.output.extend(levels)
    if suppression == TENSORRT:
        model.opset_import.append(onnx.helper.make_opsetid("TRT", 1))


def suppression_model(config: EfficientDetConfig, suppression: NmsProfile) -> Any:
    """A model of the detections' part alone: its inputs are the levels, [N, A * values, h, w] float32."""
    import onnx

    names = level_names(config)
    sizes = config.feature_sizes()
    float32, shapes = onnx.TensorProto.FLOAT, config.anchors_per_location
    inputs = [
        onnx.helper.make_tensor_value_info(name, float32, ["batch", shapes * values, *sizes[level]])
        for level_names_, values in zip(names, (config.num_classes, 4), strict=True)
        for name, level in zip(level_names_, config.levels, strict=True)
    ]
    nodes = detection_nodes(config, suppression)
    graph = onnx.helper.make_graph(
        nodes.nodes, "suppression", inputs, output_infos(config, suppression, "batch"), nodes.used_constants()
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)


def detection_nodes(config: EfficientDetConfig, suppression: Suppression) -> Nodes:
    """Everything behind the levels."""
    nodes = Nodes()
    flat = flat_outputs(nodes, config, *level_names(config))
    if isinstance(suppression, NmsProfile):
        suppress(nodes, config, flat, suppression)
    else:
        append_efficient_nms(nodes, config, flat)
    return nodes


def output_infos(config: EfficientDetConfig, suppression: Suppression, batch: int | str) -> Sequence[Any]:
    """`onnx.ValueInfoProto` of the four outputs."""
    from onnx import TensorProto, helper

    ours = isinstance(suppression, NmsProfile)
    profile = suppression if isinstance(suppression, NmsProfile) else efficient_nms_profile(config)
    limit, number = profile.max_output_size, TensorProto.INT64 if ours else TensorProto.INT32
    return [
        helper.make_tensor_value_info(NUM_DETECTIONS, number, [batch]),
        helper.make_tensor_value_info(BOXES, TensorProto.FLOAT, [batch, limit, 4]),
        helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [batch, limit]),
        helper.make_tensor_value_info(CLASSES, number, [batch, limit]),
    ]


