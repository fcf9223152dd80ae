"""What an exported file says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.labels import resolve_label_map
from effdet_model.nms_profiles import NmsProfile
from effdet_model.weights import METADATA_KEY
from export.graph.tensorrt import NOT_RUN, efficient_nms_profile
from export.network import InputKind, input_channels
from export.outputs import DETECTION_OUTPUTS, INPUT, level_names
from porting.version import TOOL, tool_version

KEY = METADATA_KEY
"""Under this name the files have it, as JSON text."""


def file_metadata(
    config: EfficientDetConfig, suppression: NmsProfile | str | None, kind: InputKind, batch: int | None, half: bool,
    weights_sha256: str, source: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Plain JSON data: everything that a program needs to use the file and to trace it back.

    Args:
        source: of the weights' own metadata: the checkpoint and its hashes.
    """
    height, width = config.image_size
    channels = input_channels(config)
    shape = [height, width, channels] if kind == "uint8" else [channels, height, width]
    fields = config.to_dict()
    profile = suppression
    if suppression is not None and not isinstance(suppression, NmsProfile):
        profile = efficient_nms_profile(config)
    outputs = list(DETECTION_OUTPUTS) if suppression else sum(level_names(config), [])
    return {
        "format_version": 1,
        "tool": {"name": TOOL, "version": tool_version()},
        "variant": config.name,
        "weights_sha256": weights_sha256,
        "source": dict(source) if source else None,
        "input": {
            "name": INPUT, "dtype": "uint8" if kind == "uint8" else "float32", "shape": ["batch", *shape],
            "batch": batch or "dynamic", "layout": "NHWC, RGB pixels" if kind == "uint8" else "NCHW, RGB, normalised",
        },
        "outputs": outputs,
        "boxes": "x0, y0, x1, y1 in pixels of the input" if suppression else "ty, tx, th, tw of every anchor",
        "half": half,
        "preprocessing": {
            **{key: fields[key] for key in ("image_size", "mean_rgb", "stddev_rgb", "scale_range")},
            "resize": "bilinear, half-pixel, no antialias, aspect kept", "padding": "zeros, bottom and right",
            "normalised_inside": kind == "uint8",
        },
        "suppression": dataclasses.asdict(profile) if isinstance(profile, NmsProfile) else None,
        "note": NOT_RUN if suppression and not isinstance(suppression, NmsProfile) else None,
        "labels": {str(key): name for key, name in resolve_label_map(config.label_map, config.num_classes).items()},
        "config": fields,
    }  # fmt: skip
