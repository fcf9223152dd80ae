"""The files that a training goes on from, and the weight files that it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet_model.config import EfficientDetConfig
from effdet_model.errors import InputError, shown
from effdet_model.plain_data import parse_json
from porting.files import atomic_write
from porting.version import TOOL, tool_version
from porting.weights.files import FORMAT_VERSION, write_weights
from porting.weights.metadata import usage

STATE_FILE = "training_state.pth"
_FORMAT = "effdet-port training 1"


@dataclass
class Progressed:
    """How far a training has come: everything that is no tensor.

    Attributes:
        epoch: the one that is under way or comes next, from 0. batch: batches of it that are done.
        step: updates done. history: one row per finished epoch, as log.csv has them.
        sums: of the losses of the epoch so far. epoch_steps: updates of it.
        best: AP of best.pth, and its epoch. since_best: evaluations since then. kept: [AP, file name] of the best few.
        overflows: updates in a row that were left out because float16 overflowed.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    epoch_steps: int = 0
    best: float | None = None
    best_epoch: int | None = None
    since_best: int = 0
    kept: list[tuple[float, str]] = field(default_factory=list)
    overflows: int = 0
    stopped: str = ""


def write_state(
    folder: Path, tensors: Mapping[str, Any], progressed: Progressed, settings: Mapping[str, Any]
) -> None:
    """Write what `read_state` reads: whole or not at all."""
    text = json.dumps({"format": _FORMAT, "progress": asdict(progressed), "settings": settings}, sort_keys=True)
    with atomic_write(folder / STATE_FILE) as temporary, open(temporary, "wb") as file:
        torch.save({"training": dict(tensors), "plain": text}, file)


def has_state(folder: Path) -> bool:
    """Whether a training in a folder got as far as to write its state."""
    return (folder / STATE_FILE).is_file()


def read_state(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Progressed]:
    """Tensors and progress of an interrupted training.

    Raises:
        InputError: it is damaged, or it was made with other settings; the message names them.
    """
    path = folder / STATE_FILE
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        plain = parse_json(loaded["plain"], str(path))
        if plain["format"] != _FORMAT:
            raise ValueError(f"format {shown(plain['format'])}")
        progressed = Progressed(**plain["progress"])
        before = plain["settings"]
    except InputError:
        raise
    except Exception as error:  # torch.load raises almost anything for a damaged file
        raise InputError(
            f"--resume: expected the state of a training in {path}, found: {' '.join(str(error).split())[:200]}; begin "
            "anew in another --output."
        ) from error
    now = json.loads(json.dumps(settings))
    differences = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differences:
        told = ", ".join(f"{name} {shown(before.get(name))}, now {shown(now.get(name))}" for name in differences[:4])
        raise InputError(
            f"--resume: expected the settings of the training in {folder}, found others ({told}); give the same, or "
            "begin anew in another --output."
        )
    progressed.kept = [(float(ap), str(name)) for ap, name in progressed.kept]
    return loaded["training"], progressed


def write_trained(
    path: Path, state_dict: Mapping[str, Tensor], config: EfficientDetConfig, training: Mapping[str, Any]
) -> str:
    """Write weights with the metadata that `convert` gives its own; returns the SHA-256.

    Args:
        training: what they come from: "weights" and "weights_sha256" that training began with, "variables" ("ema" or
            "raw"), and anything else that is plain data.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    return write_weights(path, tensors, trained_metadata(config, training))


def trained_metadata(config: EfficientDetConfig, training: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of trained weights: plain JSON data, the same for the same training."""
    return {
        "format_version": FORMAT_VERSION,
        "tool": {"name": TOOL, "version": tool_version()},
        "variant": config.name,
        "config": config.to_dict(),
        "source": {
            "file": training["weights"],
            "files": {},
            "sha256": training["weights_sha256"],
            "dialect": "training",
            "variables": training["variables"],
            "url": None,
            "family": None,
        },
        "training": dict(training),
        **usage(config, None),
        "notes": [],
    }
