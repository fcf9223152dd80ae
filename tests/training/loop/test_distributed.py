"""Several processes by torchrun on gloo: as one process with all images, with uneven shares, and SyncBN."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from demo.drawn_dataset import draw_training_set
from effdet_model import create_model
from tests.training.loop.cases import TINY_HPARAMS, run_cli


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(repository: Path, tmp_path: Path) -> None:
    """20 updates of 4 images, the last of each epoch of 1: then one process has none."""
    data = draw_training_set(tmp_path / "set", 17, 3, sizes=(64, 96))
    losses = {}
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        run_cli(
            repository, "train", "--output", out, "--variant", "d0", "--hparams", TINY_HPARAMS, "--coco", data,
            "--split", "train", "--val-split", "val", "--image-size", "128", "--batch-size", 4, "--epochs", 4,
            "--evaluate-every", 4, "--no-report", "--set", "drop_path=0,learning_rate=0.002", processes=processes,
        )  # fmt: skip
        rows = list(csv.DictReader((out / "steps.csv").open()))
        names = ("loss", "class_loss", "box_loss")
        losses[processes] = torch.tensor([[float(row[name]) for name in names] for row in rows])
    assert losses[1].shape == (20, 3)
    torch.testing.assert_close(losses[1], losses[2], rtol=1e-5, atol=1e-6)
    assert losses[1][-1, 0] != losses[1][0, 0]
    one, two = (create_model(weights=tmp_path / f"out{processes}" / "last.pth") for processes in (1, 2))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
