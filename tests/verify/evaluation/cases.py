"""What tests of evaluations share: a small random model, a dataset that may be damaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from effdet_model import create_model
from porting.weights.files import write_weights
from verify.evaluation.result import EvaluationResult
from verify.evaluation.run import EvaluateOptions, evaluate


def tiny_weights(path: Path) -> Path:
    """A d0 with three classes at 64 pixels, whose scores are spread out."""
    torch.manual_seed(0)
    model = create_model("d0", image_size=64, num_classes=3)
    torch.nn.init.normal_(model.class_net.predict.conv_pw.weight, std=0.6)
    write_weights(path, model.state_dict(), {"format_version": 1, "variant": "d0", "config": model.config.to_dict()})
    return path


def run(options: EvaluateOptions, **changes: Any) -> EvaluationResult:
    """Evaluate with some options changed."""
    result = evaluate(dataclasses.replace(options, **changes))
    assert result is not None
    return result


def copied_dataset(drawn: Path, folder: Path) -> Path:
    """A copy of a drawn dataset that a test may damage."""
    (folder / "images").mkdir()
    for path in (drawn / "images").iterdir():
        (folder / "images" / path.name).write_bytes(path.read_bytes())
    (folder / "instances.json").write_bytes((drawn / "instances.json").read_bytes())
    return folder
