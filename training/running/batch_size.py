"""The largest batch that fits a GPU's memory."""

from __future__ import annotations

import copy

import torch

from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError
from training.recipes import Recipe
from training.running.options import TrainOptions
from training.step import MicroBatch, TrainingStep
from training.targets import AnchorLabeler

_LARGEST = 1024
_SHARE = 0.9
"""Of the memory, that training may fill; pictures with many boxes need a little more than others."""


def largest_batch(model: EfficientDet, recipe: Recipe, options: TrainOptions, device: torch.device) -> int:
    """Images that go through one process at once, a power of two, tried with whole steps.

    Raises:
        InputError: there is no GPU, or not even one image fits.
    """
    if device.type != "cuda":
        raise InputError(
            f"--batch-size auto: expected a GPU, whose memory decides, found device {device}; give a number."
        )
    fits, size = 0, 1
    while size <= _LARGEST and _fits(model, recipe, options, device, size):
        fits, size = size, size * 2
    if not fits:
        raise InputError(
            f"--batch-size auto: expected memory for one image on {device}, found too little; choose a smaller "
            "--image-size or variant, --amp bf16 or --checkpointing."
        )
    return fits


def _fits(model: EfficientDet, recipe: Recipe, options: TrainOptions, device: torch.device, size: int) -> bool:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        tried = copy.deepcopy(model).to(device)
        if options.checkpointing:
            from training.running.memory import save_activations

            save_activations(tried)
        step = TrainingStep(tried, recipe, amp=None if options.amp == "off" else options.amp, synchronised=False)
        step.world = 1
        height, width = model.config.image_size
        targets = AnchorLabeler(model.config, recipe.box_coder)([[0.0, 0.0, height / 2, width / 2]], [1])
        step([MicroBatch(torch.zeros(size, 3, height, width, device=device), [targets] * size)], 1e-6)
        used = torch.cuda.max_memory_reserved(device)
        return used <= _SHARE * torch.cuda.get_device_properties(device).total_memory
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
