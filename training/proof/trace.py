"""What one side of the proof found, step by step, under the names of the PyTorch model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from effdet_model.config import EfficientDetConfig

Array = np.ndarray | Tensor


@dataclass(frozen=True)
class ProofBatch:
    """Images and boxes of one step.

    Attributes:
        images: float [N, 3, H, W], normalised.
        boxes: per image float32 [n, 4], (y0, x0, y1, x1) in pixels of the input. classes: per image int64 [n] from 1.
    """

    images: Tensor
    boxes: Sequence[Tensor]
    classes: Sequence[Tensor]


@dataclass(frozen=True)
class StepTrace:
    """One step of one side.

    Attributes:
        rate: learning rate. positives: float [N], matched anchors of each image.
        class_targets, box_targets: [N, anchors] and [N, anchors, 4], anchors in the order of levels, rows, columns.
        losses: by term.
        gradients: of the loss, before clipping, by parameter; those without one are left out. norm: of all of them.
        parameters, statistics, averages: after the step, by the names of the state_dict; empty where not kept.
    """

    rate: float
    positives: Array
    class_targets: Array
    box_targets: Array
    losses: Mapping[str, float]
    norm: float
    gradients: Mapping[str, Array] = field(default_factory=dict)
    parameters: Mapping[str, Array] = field(default_factory=dict)
    statistics: Mapping[str, Array] = field(default_factory=dict)
    averages: Mapping[str, Array] = field(default_factory=dict)


def is_statistic(name: str) -> bool:
    """Whether a name of the state_dict is one of a batch norm's moving statistics."""
    return name.endswith((".running_mean", ".running_var"))


def drawn_batch(config: EfficientDetConfig, images: int, seed: int) -> ProofBatch:
    """Noise with boxes: several in most images, one that only its best anchor matches, and an image without any."""
    random = np.random.default_rng(seed)
    height, width = config.image_size
    pixels = random.standard_normal((images, 3, height, width)).astype(np.float32)
    boxes, classes = [], []
    for place in range(images):
        count = 0 if images > 2 and place == images - 1 else 3
        sides = random.uniform(0.15, 0.7, (count, 2)) * (height, width)
        if count:
            sides[-1] = 3.0, 4.5
        low = random.uniform(0.0, 1.0, (count, 2)) * ((height, width) - sides)
        boxes.append(torch.from_numpy(np.concatenate([low, low + sides], 1).astype(np.float32)))
        classes.append(torch.from_numpy(random.integers(1, config.num_classes + 1, count)))
    return ProofBatch(torch.from_numpy(pixels), boxes, classes)
