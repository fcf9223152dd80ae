"""The config of a checkpoint: what was asked for, completed by what the shapes say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.variants import canonical_variant, get_config
from porting.checkpoint.sources import Source
from porting.recognise.census import Heads, read_heads, take_census

AUTO = "auto"


@dataclass(frozen=True)
class Identified:
    """A checkpoint's config.

    Attributes:
        config: complete, ready for a mapping table.
        notes: what was inferred or assumed, in sentences.
    """

    config: EfficientDetConfig
    notes: tuple[str, ...] = ()


def identify(source: Source, variant: str, overrides: Mapping[str, Any]) -> Identified:
    """The config of a checkpoint.

    Args:
        variant: a variant's name, or "auto".
        overrides: config fields that --hparams (or an official family) set.

    Raises:
        InputError: no variant fits, or the overrides contradict the heads' shapes.
    """
    shapes = {name: info.shape for name, info in source.variables.items()}
    heads = read_heads(shapes, source.label)
    notes: list[str] = []
    name = _automatic(source, shapes, notes) if variant == AUTO else canonical_variant(variant)
    config = get_config(name, **overrides)
    config = _with_anchors(config, heads, overrides, source.label, notes)
    if "num_classes" not in overrides:
        if heads.num_classes != config.num_classes:
            notes.append(f"{heads.num_classes} classes, as the shape of class-predict says")
        config = config.replace(num_classes=heads.num_classes)
    elif config.num_classes != heads.num_classes:
        raise InputError(
            f"{source.label}: --hparams say num_classes={config.num_classes}, the shape of class-predict says "
            f"{heads.num_classes}; correct or drop num_classes."
        )
    return Identified(config, tuple(notes))


def _automatic(source: Source, shapes: Mapping[str, tuple[int, ...]], notes: list[str]) -> str:
    census = take_census(shapes)
    if not census.variants:
        raise InputError(
            f"{source.label}: expected the shapes of an official variant, found none that fits exactly; nearest is "
            f"{census.nearest} ({census.similarity:.0%} of shapes). Name --variant and the --hparams it was "
            "trained with."
        )
    if len(census.variants) > 1:
        notes.append(
            f"{', '.join(census.variants)} have the same shapes; took {census.variants[0]} (they differ in image "
            "size, anchors or preprocessing: name --variant if it is another)"
        )
    return census.variants[0]


def _with_anchors(
    config: EfficientDetConfig, heads: Heads, overrides: Mapping[str, Any], label: str, notes: list[str]
) -> EfficientDetConfig:
    if config.anchors_per_location == heads.anchors_per_location:
        return config
    if "aspect_ratios" in overrides or "num_scales" in overrides:
        raise InputError(
            f"{label}: num_scales x aspect_ratios make {config.anchors_per_location} anchors per location, the shape "
            f"of box-predict says {heads.anchors_per_location}; correct --hparams num_scales and aspect_ratios."
        )
    ratios = len(config.aspect_ratios)
    scales, left = divmod(heads.anchors_per_location, ratios)
    if left:
        scales, ratios = heads.anchors_per_location, 1
    notes.append(
        f"{heads.anchors_per_location} anchors per location, as the shape of box-predict says; assumed {scales} "
        f"scales x {ratios} ratios, which no checkpoint tells: set --hparams num_scales and aspect_ratios before "
        "detecting with these weights"
    )
    return replace(config, num_scales=scales, aspect_ratios=config.aspect_ratios[:ratios])


def explain_mismatch(source: Source, config: EfficientDetConfig, error: InputError) -> InputError:
    """A clearer error where the checkpoint is plainly another variant; else the error itself."""
    shapes = {name: info.shape for name, info in source.variables.items()}
    census = take_census(shapes)
    if census.variants and config.name not in census.variants:
        heads = read_heads(shapes, source.label)
        return InputError(
            f"{source.label}: this is a {census.variants[0]} checkpoint with {heads.num_classes} classes, you asked "
            f"for {config.name}; use --variant {census.variants[0]}."
        )
    return error
