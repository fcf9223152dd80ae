"""Runs an evaluation in a process of its own: python tests/run_evaluate.py OPTIONS.json (torchrun starts it, too)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from verify.evaluation.run import EvaluateOptions, evaluate  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    evaluate(EvaluateOptions(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
