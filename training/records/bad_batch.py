"""Keeping the batch that made losses or gradients NaN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from porting.files import atomic_write, make_folder
from training.running.data import Batch

FOLDER = "not_finite"


def keep_batch(output: Path, batches: Sequence[Batch], step: int, rank: int) -> Path:
    """Write what a process had in a step, for `torch.load(..., weights_only=True)`; the file's path."""
    folder = output / FOLDER
    make_folder(folder, "output folder")
    path = folder / f"step_{step:07d}_process_{rank}.pth"
    content = [
        {
            "images": batch.images.cpu(),
            "boxes_yxyx": [boxes.cpu() for boxes in batch.boxes],
            "classes": [classes.cpu() for classes in batch.classes],
            "image_ids": [int(image_id) for image_id in batch.image_ids],
        }
        for batch in batches
    ]
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
    return path
