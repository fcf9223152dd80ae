"""What the exported network is held against: TensorFlow on the checkpoint, or the PyTorch model, in float64."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError
from effdet_model.extras import install_line
from export.outputs import level_names
from porting.checkpoint.sources import open_source
from verify.reference.configuration.config_check import config_differences
from verify.reference.configuration.official import all_hparams, declared_hparams, reference_config
from verify.reference.configuration.values import official_values
from verify.reference.process import ReferenceProcess

Levels = dict[str, np.ndarray]
"""By name, [N, anchors * values, h, w]."""


@dataclass(frozen=True)
class Exact:
    """The same inputs in float64 (the truth), and in the precision whose own rounding is the measure."""

    truth: Levels
    single: Levels


class Truth(Protocol):
    """One side to hold an exported network against.

    Attributes:
        name: in words. kind: "tensorflow" or "pytorch". problems: what is wrong before any input is run, in sentences.
        checkpoint_sha256, family, variables: for the record, of TensorFlow's side; None without.
    """

    name: str
    kind: str
    problems: tuple[str, ...]
    checkpoint_sha256: str | None
    family: str | None
    variables: str | None

    @property
    def versions(self) -> dict[str, str]:
        """Of the programs on this side."""

    def levels(self, images: np.ndarray) -> Exact:
        """Of float32 [N, C, H, W], normalised."""


class TorchTruth:
    """The PyTorch model.

    Args:
        model: the whole one, in float32. half: whether float16's rounding is the measure.
    """

    kind = "pytorch"
    problems: tuple[str, ...] = ()
    checkpoint_sha256: str | None = None
    family: str | None = None
    variables: str | None = None

    def __init__(self, model: Any, half: bool = False) -> None:
        self.config: EfficientDetConfig = model.config
        self.versions: dict[str, str] = {}
        self.name = f"PyTorch in float64, by PyTorch's own rounding in {'float16' if half else 'float32'}"
        self.exact = copy.deepcopy(model).double()
        self.single = copy.deepcopy(model).half() if half else model

    def levels(self, images: np.ndarray) -> Exact:
        """See `Truth`."""
        return Exact(self._run(self.exact, images), self._run(self.single, images))

    def _run(self, model: Any, images: np.ndarray) -> Levels:
        import torch

        dtype = next(model.parameters()).dtype
        with torch.inference_mode():
            classes, boxes = model(torch.from_numpy(images).to(dtype))
        names = sum(level_names(self.config), [])
        return {name: level.double().numpy() for name, level in zip(names, (*classes, *boxes), strict=True)}


class TensorFlowTruth:
    """The checkpoint in TensorFlow, configured by google/automl's facts and what the user declares.

    Args:
        half: the model whose float16 rounding is the measure; None: TensorFlow's float32.
    """

    kind = "tensorflow"

    def __init__(self, reference: ReferenceProcess, config: EfficientDetConfig, half: TorchTruth | None) -> None:
        self.reference, self.config, self.half = reference, config, half
        self.problems: tuple[str, ...] = ()
        self.checkpoint_sha256: str | None = None
        self.family: str | None = None
        self.variables: str | None = None
        measure = "PyTorch's own rounding in float16" if half else "TensorFlow's own rounding in float32"
        self.name = f"TensorFlow in float64, by {measure}"

    @property
    def versions(self) -> dict[str, str]:
        """Of what answered so far."""
        return {name: str(self.reference.versions[name]) for name in ("tensorflow",) if name in self.reference.versions}

    def levels(self, images: np.ndarray) -> Exact:
        """See `Truth`."""
        single: Levels = {}
        truth: Levels = {}
        for layer in self.reference.layers(np.ascontiguousarray(images.transpose(0, 2, 3, 1))):
            head, _, level = layer.name.rpartition(".predict.level.")
            if head:
                name = f"{head.removesuffix('_net')}_{level}"
                (truth if name in single else single)[name] = layer.output.transpose(0, 3, 1, 2)
        return Exact(truth, self.half.levels(images).single if self.half else single)


@contextlib.contextmanager
def opened_truth(
    model: Any, checkpoint: Path | None, half: bool, hparams: Any = None, family: str | None = None
) -> Iterator[Truth]:
    """TensorFlow where a checkpoint is given, else PyTorch; the model's image size counts.

    Raises:
        InputError: a checkpoint without TensorFlow, or one that cannot be read.
    """
    of_torch = TorchTruth(model, half)
    if checkpoint is None:
        yield of_torch
        return
    config: EfficientDetConfig = model.config
    with ReferenceProcess() as reference, open_source(checkpoint) as source:
        truth = TensorFlowTruth(reference, config, of_torch if half else None)
        shapes = {name: info.shape for name, info in source.variables.items()}
        official = reference_config(config.name, family=family, hparams=hparams, shapes=shapes, stated=source.stated)
        official["image_size"] = list(config.image_size)
        differences = config_differences(official, config.to_dict(), declared_hparams(hparams))
        truth.problems = tuple(
            f"configuration: {item.field} is {item.port} here, {item.reference} in google/automl"
            for item in differences if not item.declared
        )  # fmt: skip
        kind, _ = official_values(source.raw_names, [file.name for file in source.files], all_hparams(hparams))
        source.meant(list(source.variables), kind)
        reference.open(official, lambda name: source.read(name, kind), "float32", source.backbone_scope, "run")
        truth.checkpoint_sha256, truth.family, truth.variables = source.sha256(), official["family"], kind
        yield truth


def check_truth(checkpoint: Path | None, config: EfficientDetConfig) -> None:
    """Refuse a checkpoint that nothing here can run.

    Raises:
        InputError: TensorFlow is missing, or the model exists in PyTorch only.
    """
    if checkpoint is None:
        return
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"export with --checkpoint: expected TensorFlow, found none; leave --checkpoint out to hold the file "
            f"against the PyTorch model in float64, or run {install_line('verify')}."
        )
    if not config.is_official:
        raise InputError(
            f"export with --checkpoint: expected a model that TensorFlow's EfficientDet has too, found {config.name}; "
            "leave --checkpoint out."
        )


def worst(found: Mapping[str, Any]) -> str:
    """The name whose difference is the largest share of what is allowed."""
    return max(found, key=lambda name: found[name].excess)
