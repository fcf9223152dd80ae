"""The mean of the best few weight files of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from effdet_model.errors import InputError
from effdet_model.weights import read_state_dict
from training.records.files import AVERAGE, KEPT_FOLDER
from training.records.state import Progressed, write_trained
from training.running.job import Job


def average_files(job: Job, progressed: Progressed, count: int) -> Path | None:
    """Write average.pth: the mean of the best `count` epochs; None where nothing was judged."""
    folder = job.options.output / KEPT_FOLDER
    paths = [folder / name for _, name in progressed.kept[:count]]
    if not paths:
        return None
    path = job.options.output / AVERAGE
    origin = job.origin("mean", progressed.epoch, None) | {"averaged": [name for _, name in progressed.kept[:count]]}
    write_trained(path, averaged(paths), job.config, origin)
    return path


def averaged(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of each tensor over weight files, summed in float64; whole numbers are the first file's.

    Raises:
        InputError: the files are of different models.
    """
    first = read_state_dict(paths[0])
    sums = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
    for path in paths[1:]:
        other = read_state_dict(path)
        if {name: tensor.shape for name, tensor in other.items()} != {name: t.shape for name, t in first.items()}:
            raise InputError(f"average: expected the tensors of {paths[0]} in {path}, found others; average one model.")
        for name in sums:
            sums[name] += other[name].double()
    return {
        name: (sums[name] / len(paths)).to(tensor.dtype) if name in sums else torch.clone(tensor)
        for name, tensor in first.items()
    }
