"""Everything of a parity run that is known before the first image: models, configurations, where weights come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet_model.errors import InputError
from porting.checkpoint.sources import Kind
from porting.version import tool_version
from porting.weights.files import file_sha256
from verify.evaluation.coco import CocoDataset
from verify.evaluation.published import Era
from verify.parity.options import ParityOptions
from verify.reference.configuration.config_check import ConfigDifference, config_differences
from verify.reference.configuration.official import all_hparams, declared_hparams, reference_config
from verify.reference.configuration.values import KINDS, official_values

if TYPE_CHECKING:
    from effdet_model.efficientdet import EfficientDet
    from effdet_model.nms_profiles import NmsProfile
    from porting.checkpoint.sources import Source

VARIABLES = "variables"
"""Name under which a port is reported that was made of raw values, or moving averages, against what is told."""
_PREDICTIONS = ("class_net", "class"), ("box_net", "box")


@dataclass(frozen=True)
class Setup:
    """What is compared with what.

    Attributes:
        reference_config: of TensorFlow's side, from google/automl's facts and what the user declared.
        differences: of the port's configuration from it.
        kind: "ema" or "raw": the values of the checkpoint that TensorFlow uses. notes: why these.
    """

    options: ParityOptions
    dataset: CocoDataset
    model: EfficientDet
    profile: NmsProfile
    metadata: Mapping[str, Any] | None
    era: Era | None
    reference_config: Mapping[str, Any]
    differences: tuple[ConfigDifference, ...]
    kind: Kind
    notes: tuple[str, ...]
    weights_sha256: str
    checkpoint_label: str

    def settings(self, checkpoint_sha256: str) -> dict[str, Any]:
        """What the results depend on, the images' contents aside."""
        return {
            "checkpoint": checkpoint_sha256,
            "weights": self.weights_sha256,
            "configuration": self.model.config.to_dict(),
            "reference's configuration": dict(self.reference_config),
            "variables": self.kind,
            "suppression": dataclasses.asdict(self.profile),
            "images": self.dataset.image_list_sha256,
            "engine": self.options.engine,
            "tool version": tool_version(),
        }


def prepare(
    options: ParityOptions, source: Source, dataset: CocoDataset, model: EfficientDet, profile: NmsProfile,
    metadata: Mapping[str, Any] | None, era: Era | None,
) -> Setup:
    """Choose values and configuration of the reference, and hold the port's against them.

    Raises:
        InputError: the checkpoint lacks the values that are asked for, or is no EfficientDet.
    """
    told = ((metadata or {}).get("source") or {}).get("variables")
    kind, notes = _values(options, source, told)
    port = model.config.to_dict()
    reference = reference_config(
        options.variant or model.config.name, family=_family(options, metadata, era), hparams=options.declared,
        shapes={name: variable.shape for name, variable in source.variables.items()}, stated=source.stated,
    )  # fmt: skip
    reference["image_size"] = list(model.config.image_size)
    found = config_differences(reference, port, declared_hparams(options.declared))
    kinds = _kinds(source, model, kind, told)
    return Setup(
        options, dataset, model, profile, metadata, era, reference, (*found, *kinds), kind,
        (*notes, *(f"Of the checkpoint: {note}." for note in source.notes)),
        file_sha256(Path(options.weights)), source.label,
    )  # fmt: skip


def _values(options: ParityOptions, source: Source, told: str | None) -> tuple[Kind, tuple[str, ...]]:
    """The values that TensorFlow takes: the user's choice, else what the weights are said to be made of, else its own.

    Where the official code would take others, a note says so.
    """
    files = [file.name for file in source.files]
    official, why = official_values(source.raw_names, files, all_hparams(options.declared))
    asked = options.variables if options.variables != "auto" else told or official
    kind, _ = source.meant(list(source.variables), asked)  # type: ignore[arg-type]
    if kind == official:
        return kind, ()
    by = f"--variables {kind}" if options.variables != "auto" else "as the weights' metadata say"
    return kind, (f"TensorFlow took the {KINDS[kind]}, {by}; by itself it takes the {KINDS[official]}: {why}.",)


def _family(options: ParityOptions, metadata: Mapping[str, Any] | None, era: Era | None) -> str | None:
    """The release whose day counts for the reference's anchors: as --as-published settles it, or as the user says."""
    return era.family if era is not None else options.family


def _kinds(source: Source, model: EfficientDet, kind: Kind, told: str | None) -> list[ConfigDifference]:
    """A port that holds the other kind of values than it should: raw ones for moving averages, or the reverse."""
    other: Kind = "raw" if kind == "ema" else "ema"
    if told is not None and told != kind:
        remedy = f"The weights' metadata say {told}; leave --variables out."
        return [ConfigDifference(VARIABLES, kind, told, False, remedy)]
    state = model.state_dict()
    for net, prefix in _PREDICTIONS:
        name = f"{net}/{prefix}-predict/bias"
        variable = source.variables.get(name)
        if variable is None or not (variable.has_ema and variable.has_raw):
            continue
        mine = next(value for key, value in state.items() if key.startswith(f"{net}.predict") and key.endswith("bias"))
        values = mine.detach().cpu().numpy()
        if _equal(values, source.read(name, other)) and not _equal(values, source.read(name, kind)):
            remedy = f"Convert again with --variables {kind}, or compare with --variables {other}."
            return [ConfigDifference(VARIABLES, kind, other, False, remedy)]
    return []


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one, np.asarray(other, one.dtype)))


def check_official(model: EfficientDet) -> None:
    """Refuse models that exist in PyTorch only.

    Raises:
        InputError: it is one.
    """
    if not model.config.is_official:
        raise InputError(
            f"variant {model.config.name}: expected a model that TensorFlow's EfficientDet has too, found one that "
            "exists in PyTorch only; parity needs both."
        )
