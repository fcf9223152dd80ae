"""How good a model is after an epoch: COCO metrics on the validation images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from effdet_model.efficientdet import EfficientDet
from training.running.job import Job
from training.step import TrainingStep
from verify.evaluation.options import EvaluateOptions
from verify.evaluation.result import EvaluationResult
from verify.evaluation.run import evaluate_model

_START_LEFT = 0.1
"""Averages count once no more than this share of them is what they began with."""


class Judge:
    """A copy of the model for evaluation; training goes on undisturbed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model: EfficientDet = copy.deepcopy(job.model).eval()
        self.model.requires_grad_(False)

    def variables(self, step: TrainingStep) -> str:
        """Which weights count now: "ema" or "raw"."""
        wanted = self.job.options.evaluated
        if step.ema is None or wanted == "raw":
            return "raw"
        return "ema" if wanted == "ema" or step.ema.start_share <= _START_LEFT else "raw"

    def weights(self, step: TrainingStep) -> dict[str, Tensor]:
        """Those weights, by the names of the model's state_dict."""
        if step.ema is not None and self.variables(step) == "ema":
            return step.ema.values
        return step.model.state_dict()

    def evaluate(self, weights: dict[str, Tensor], name: str, report: bool = False) -> EvaluationResult | None:
        """COCO metrics of weights; None without validation images, and in all processes but the first.

        Args:
            name: what the result calls the weights. report: with analysis and examples.
        """
        data, options = self.job.data.validation, self.job.options
        if data is None:
            return None
        self.model.load_state_dict(weights, strict=True)
        how = EvaluateOptions(
            name, nms=options.nms, workers=max(1, options.workers), report=options.output if report else None,
            batch_size=8, channels_last=options.channels_last,
        )  # fmt: skip
        state = torch.get_rng_state()
        result = evaluate_model(self.model, data, how, self.job.rank)
        torch.set_rng_state(state)
        return result
