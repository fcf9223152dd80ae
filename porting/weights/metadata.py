"""What goes with a weight file: everything needed to use it and to trace it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.nms_profiles import profile_from_config
from porting.accounting import Account
from porting.checkpoint.sources import Source
from porting.version import TOOL, tool_version
from porting.weights.files import FORMAT_VERSION


def build_metadata(
    config: EfficientDetConfig,
    source: Source,
    account: Account,
    notes: Sequence[str],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """The metadata of a conversion: plain JSON data, the same for the same input.

    `config` recreates the model; `source` traces it to its file; `preprocessing`, `anchors` and `nms` say in one
    place how to use it.
    """
    fields = config.to_dict()
    return {
        "format_version": FORMAT_VERSION,
        "tool": {"name": TOOL, "version": tool_version()},
        "variant": config.name,
        "config": fields,
        "source": {
            "file": source.path.name,
            "files": source.file_sha256(),
            "sha256": source.sha256(),
            "dialect": source.dialect,
            "variables": account.kind,
            "url": origin.get("url"),
            "family": origin.get("family"),
        },
        "counts": {
            "tensorflow_variables": len(account.consumed),
            "ignored": dict(account.ignored),
        },
        **usage(config, origin.get("nms_profile")),
        "notes": list(notes),
    }


def usage(config: EfficientDetConfig, published_profile: str | None) -> dict[str, Any]:
    """The parts of the metadata that follow from the config: how to use the weights, in one place each.

    Args:
        published_profile: of suppression, that the published numbers were made with.
    """
    fields = config.to_dict()
    return {
        "preprocessing": {key: fields[key] for key in ("image_size", "mean_rgb", "stddev_rgb", "scale_range")}
        | {"resize": "bilinear, half-pixel, no antialias, aspect kept", "padding": "zeros, bottom and right"},
        "anchors": {
            key: fields[key]
            for key in ("min_level", "max_level", "num_scales", "aspect_ratios", "anchor_scale")
        },
        "nms": {
            "profile": profile_from_config(config).name,
            "published_profile": published_profile,
            "configs": fields["nms_configs"],
        },
        "classes": {"count": config.num_classes, "ids": "index + 1", "label_map": fields["label_map"]},
    }
