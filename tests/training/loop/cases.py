"""A model and a batch small enough to train in a moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from effdet_model import create_model
from effdet_model.efficientdet import EfficientDet
from training.recipes import Recipe
from training.step import MicroBatch
from training.targets import AnchorLabeler

TINY: dict[str, Any] = {
    "backbone_name": "mobilenetv3_small_050", "fpn_cell_repeats": 1, "box_class_repeats": 1, "fpn_num_filters": 8,
    "num_classes": 3,
}  # fmt: skip
TINY_HPARAMS = ",".join(f"{name}={value}" for name, value in TINY.items() if name != "num_classes")


def tiny_model(dtype: torch.dtype = torch.float64, seed: int = 0, **more: Any) -> EfficientDet:
    """A whole EfficientDet of about 30,000 weights beside its backbone."""
    torch.manual_seed(seed)
    return create_model("d0", image_size=128, **{**TINY, **more}).to(dtype)


def batch(model: EfficientDet, recipe: Recipe, count: int = 4, seed: int = 0) -> MicroBatch:
    """Noise with a few boxes; the third image has none."""
    random = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    images = torch.randn(count, 3, 128, 128, generator=random, dtype=torch.float64).to(dtype)
    labeler = AnchorLabeler(model.config, recipe.box_coder)
    targets = []
    for place in range(count):
        corner = torch.rand(2, 2, generator=random) * 60
        boxes = torch.cat([corner, corner + 20 + torch.rand(2, 2, generator=random) * 40], 1)
        targets.append(labeler([], []) if place == 2 else labeler(boxes, [1 + place % 3, 3]))
    return MicroBatch(images, targets)


def run_cli(repository: Path, *arguments: object, processes: int = 0, check: bool = True, **how: Any) -> str:
    """Standard error and output of a command; with `processes` under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    start = command if processes else [sys.executable]
    done = subprocess.run(
        [*start, str(repository / "cli.py"), *map(str, arguments)], capture_output=True, text=True, cwd=repository,
        timeout=300, **how,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return f"{done.returncode}\n{done.stderr}\n{done.stdout}"
