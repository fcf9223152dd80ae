"""Small models with deterministic weights for the tests of the diff; nothing is stored."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effdet_model import EfficientDet, EfficientDetConfig, get_config
from mappings.layouts import LAYOUTS
from mappings.table import build_table
from porting.checkpoint.sources import VariableInfo

SMALL = {"num_classes": 3, "fpn_num_filters": 16, "fpn_cell_repeats": 2, "box_class_repeats": 2}


def deterministic_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array that depends on the variable's name and shape alone, of the size a trained one has."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    leaf = name.rsplit("/", 1)[-1]
    if leaf.startswith("WSM"):
        values = random.uniform(0.1, 1.5, shape)
    elif leaf in ("gamma", "moving_variance"):
        values = random.uniform(0.6, 1.4, shape)
    elif leaf in ("beta", "moving_mean", "bias"):
        values = random.normal(0.0, 0.2, shape)
    else:
        fan_in = shape[0] * shape[1] * (1 if leaf == "depthwise_kernel" else shape[2])
        values = random.normal(0.0, fan_in**-0.5, shape)
    return np.asarray(values, np.float32)


@dataclass
class MemorySource:
    """A checkpoint in memory, with what the diff needs of `porting.checkpoint.sources.Source`."""

    variables: Mapping[str, VariableInfo]
    backbone_scope: str
    label: str = "in memory"
    changed: dict[str, np.ndarray] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def raw_names(self) -> list[str]:
        return [*self.variables, *(f"{name}/ExponentialMovingAverage" for name in self.variables)]

    @property
    def files(self) -> list[Path]:
        return [Path("model.index")]

    def meant(self, needed: Sequence[str], choice: str = "auto", decay: float | None = None) -> tuple[str, str]:
        return ("raw" if choice == "raw" else "ema"), "asked for"

    def read(self, name: str, kind: str = "raw") -> np.ndarray:
        if name in self.changed:
            return self.changed[name]
        info = self.variables[name]
        return deterministic_value(name if kind == "ema" else f"raw:{name}", info.shape)


def make_source(config: EfficientDetConfig) -> MemorySource:
    """Every variable of a config, each with a raw value and a moving average."""
    shapes = build_table(config).tensorflow_shapes
    variables = {name: VariableInfo(name, shape, "float32", name, True, True) for name, shape in shapes.items()}
    return MemorySource(variables, config.backbone_name)


def ported(config: EfficientDetConfig, source: MemorySource, kind: str = "ema") -> EfficientDet:
    """The model filled as the mapping says."""
    model = EfficientDet(config).eval()
    state = {
        row.pytorch_key: torch.from_numpy(
            np.array(LAYOUTS[row.kind].to_pytorch([source.read(name, kind) for name in row.tensorflow_names]))
        )
        for row in build_table(config).rows
    }
    model.load_state_dict(state, strict=True)
    return model


def small_config(variant: str = "d0", **overrides: object) -> EfficientDetConfig:
    """A variant's backbone with a small feature network and heads."""
    return get_config(variant, **{"image_size": (64, 64), **SMALL, **overrides})


def hparams_of(**overrides: object) -> dict[str, object]:
    """What makes the reference of `small_config(**overrides)`: the same as a user declares it."""
    declared = {"image_size": (64, 64), **SMALL, **overrides}
    return {key: value for key, value in declared.items() if key != "variant"}


@functools.cache
def sound_d0() -> tuple[EfficientDet, MemorySource]:
    """A sound port of the small d0, made once; copy it before breaking it."""
    config = small_config()
    source = make_source(config)
    return ported(config, source), source
