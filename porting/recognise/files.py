"""The recogniser's answers for an open checkpoint and for a weight file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.weights import read_metadata, read_weights
from porting.checkpoint.sources import Source
from porting.recognise.recognise import AUTO, Evidence, Recognised, contradiction, recognise
from porting.recognise.surroundings import around


def recognise_source(
    source: Source, variant: str = AUTO, overrides: Mapping[str, Any] | None = None, named: Sequence[str] = ()
) -> Recognised:
    """What a checkpoint is.

    Args:
        named: further names that belong to it, e.g. the URL that it came from.
    """
    problem = _not_portable([*source.variables, *source.unknown])
    if problem:
        return Recognised(source.label, problems=(problem,))
    shapes = {name: info.shape for name, info in source.variables.items()}
    names = around(source.path, *source.surroundings, *named)
    given = dict(overrides or {})
    evidence = Evidence(shapes, "tensorflow", source.label, names, source.backbone_scope, stated=source.stated)
    found = recognise(evidence, variant, {**source.stated, **given})
    notes = (*source.notes, *_overridden(source.stated, given, found.config), *found.notes)
    return dataclasses.replace(found, notes=notes)


def _overridden(
    stated: Mapping[str, Any], given: Mapping[str, Any], config: EfficientDetConfig | None
) -> Iterator[str]:
    """Where the user says otherwise than the file."""
    for key in sorted(set(stated) & set(given)) if config else ():
        assert config is not None
        mine, file = getattr(config, key), getattr(config.replace(**{key: stated[key]}), key)
        if mine != file:
            yield f"took {key}={mine} as asked, though the file itself says {file}"


def _not_portable(names: Sequence[str]) -> str:
    """What of google/automl's models no PyTorch model here has, where the names of the variables tell it; "" else."""
    slopes = sum(name.rpartition("/")[2] == "srelu_beta" for name in names)
    if slopes:
        return (
            f"expected an activation without variables of its own, found act_type srelu, which trains one at every "
            f"place ({slopes} named srelu_beta); such models cannot be ported, train with another act_type."
        )
    if any(name.startswith(("class_net/class-0-bn-0/", "box_net/box-0-bn-0/")) for name in names):
        return (
            "expected a pyramid from level 1 or later, found min_level 0, where the image itself is the finest level; "
            "such models cannot be ported, train with min_level from 1 to 5."
        )
    return ""


def recognise_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, Any] | None,
    variant: str = AUTO,
    overrides: Mapping[str, Any] | None = None,
    named: Sequence[str] = (),
) -> Recognised:
    """What a weight file is, by the names and shapes of its tensors and what it says of itself."""
    recorded = (metadata or {}).get("config")
    config = EfficientDetConfig.from_dict(recorded) if isinstance(recorded, dict) else None
    evidence = Evidence(shapes, "pytorch", f"weights {path}", around(path, *named), recorded=config)
    return recognise(evidence, variant, overrides)


@dataclass(frozen=True)
class WeightSettings:
    """How to make the model of a weight file.

    Attributes:
        variant: None where the file's metadata say it. overrides: config fields, the user's and the file's.
        notes: what was inferred, in sentences. metadata: what the file says of itself.
    """

    variant: str | None
    overrides: Mapping[str, Any]
    notes: tuple[str, ...]
    metadata: Mapping[str, Any] | None


def weight_settings(
    weights: str | Path,
    variant: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    named: Sequence[str] = (),
) -> WeightSettings:
    """Variant and config fields with which `create_model` loads a weight file, also one without metadata.

    Args:
        variant: the one that the user names. named: names that belong to it, e.g. of the checkpoint it came from.

    Raises:
        InputError: the file cannot be read, or it is not certain what it is.
    """
    given = dict(overrides or {})
    metadata = read_metadata(weights)
    recorded = (metadata or {}).get("config")
    if isinstance(recorded, dict):
        for problem in contradiction(EfficientDetConfig.from_dict(recorded), variant or AUTO):
            raise InputError(f"weights {weights}: {problem}")
        return WeightSettings(variant, given, (), metadata)
    path = Path(weights)
    shapes = {name: tuple(tensor.shape) for name, tensor in read_weights(path, mapped=True).state_dict.items()}
    found = recognise_tensors(path, shapes, None, variant or AUTO, given, named)
    config = found.settled()
    return WeightSettings(config.name, {**found.hparams, **given}, found.notes, metadata)
