"""NVIDIA's plugin EfficientNMS_TRT behind the levels: hard suppression inside TensorRT, which alone knows the node."""

from __future__ import annotations

import numpy as np

from effdet_model.anchors import anchors_from_config
from effdet_model.config import EfficientDetConfig
from effdet_model.nms import CLASS_OFFSET
from effdet_model.nms_profiles import NmsProfile, resolve_profile
from export.graph.candidates import FlatOutputs
from export.graph.nodes import Nodes
from export.outputs import BOXES, CLASSES, NUM_DETECTIONS, SCORES

NOT_RUN = (
    "The detections of this file were not run: the node EfficientNMS_TRT exists in NVIDIA's TensorRT alone. Its "
    "network was; compare detections where you build the engine."
)


def efficient_nms_profile(config: EfficientDetConfig) -> NmsProfile:
    """Whose numbers the node gets: graph_hard with what the configuration sets, and a score threshold."""
    settings = {key: config.nms_configs.get(key) for key in ("iou_thresh", "score_thresh", "max_output_size")}
    return resolve_profile("graph_hard", {**settings, "score_thresh": settings["score_thresh"] or 0.001})


def append_efficient_nms(nodes: Nodes, config: EfficientDetConfig, flat: FlatOutputs) -> None:
    """The node, fed with logits, regressions and anchors; box coding 1: centre and size, (y, x, h, w) here."""
    profile = efficient_nms_profile(config)
    corners = anchors_from_config(config).astype(np.float64)
    low, high = corners[:, :2], corners[:, 2:]
    anchors = np.concatenate(((low + high) / 2, high - low), 1).astype(np.float32)[None]
    number, boxes, scores, classes = nodes(
        "EfficientNMS_TRT", flat.regressions, flat.logits, nodes.constant(anchors), outputs=4, domain="TRT",
        plugin_version="1", background_class=-1, max_output_boxes=profile.max_output_size,
        score_threshold=float(profile.score_threshold or 0), iou_threshold=float(profile.iou_threshold),
        score_activation=1, class_agnostic=0, box_coding=1,
    )  # fmt: skip
    places = nodes.constant(np.arange(profile.max_output_size)[None], np.int32)
    there = nodes.cast(nodes("Less", places, number), "INT32")
    ids = nodes("Mul", nodes("Add", classes, nodes.constant(CLASS_OFFSET, np.int32)), there)
    nodes.named(nodes("Squeeze", number, nodes.indices(1)), NUM_DETECTIONS)
    nodes.named(nodes("Gather", boxes, nodes.indices(1, 0, 3, 2), axis=2), BOXES)
    nodes.named(scores, SCORES)
    nodes.named(ids, CLASSES)
