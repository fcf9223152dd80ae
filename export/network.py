"""The network as it is exported: its input as users have it, its outputs as a flat tuple of named levels."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from effdet_model.config import EfficientDetConfig

InputKind = Literal["float", "uint8"]


class ExportedNetwork(nn.Module):
    """class_L of every level, then box_L: float32 [N, anchors * values, h, w] (`export.outputs.level_names`).

    Args:
        model: as `create_model` makes it; left as it is.
        kind: "float": float32 [N, C, H, W], normalised; "uint8": pixels [N, H, W, C] of the model's size, normalised
            here, in the order of float32 that `preprocessing` has.
        half: whether the network computes in float16; what goes in and out stays float32.
    """

    def __init__(self, model: nn.Module, kind: InputKind = "float", half: bool = False) -> None:
        super().__init__()
        config: Any = model.config
        self.network = copy.deepcopy(model).half() if half else model
        self.pixels, self.half_precision = kind == "uint8", half
        self.scale_range = bool(config.scale_range)
        channels = input_channels(config)
        self.mean: Tensor
        self.deviation: Tensor
        for name, value in (("mean", config.mean_rgb), ("deviation", config.stddev_rgb)):
            row = np.broadcast_to(np.asarray(value, np.float32), (channels,)).copy()
            self.register_buffer(name, torch.from_numpy(row).view(1, channels, 1, 1), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        if self.pixels:
            images = (images.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
            if self.scale_range:
                images = images * 2.0 / 255 - 1.0
        class_outputs, box_outputs = self.network(images.half() if self.half_precision else images)
        levels = (*class_outputs, *box_outputs)
        return tuple(level.float() for level in levels) if self.half_precision else levels


def input_channels(config: EfficientDetConfig) -> int:
    """How many channels images have."""
    return int(dict(config.backbone_args).get("in_chans", 3))


def example_input(config: EfficientDetConfig, kind: InputKind, batch: int) -> Tensor:
    """Zeros as the exported network takes them."""
    height, width = config.image_size
    channels = input_channels(config)
    if kind == "uint8":
        return torch.zeros(batch, height, width, channels, dtype=torch.uint8)
    return torch.zeros(batch, channels, height, width)


def exported_program(network: ExportedNetwork, config: EfficientDetConfig, kind: InputKind, batch: int | None) -> Any:
    """`torch.export.ExportedProgram` for one image size; batch None: any number of images."""
    example = example_input(config, kind, 2 if batch is None else batch)
    dynamic = {"images": {0: torch.export.Dim("batch", min=1)}} if batch is None else None
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=dynamic)
