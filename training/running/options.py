"""What a training is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AMP = ("off", "bf16", "fp16")
RESETS = ("auto", "predict", "whole")
EVALUATED = ("auto", "ema", "raw")

Say = Callable[[str], None]
Progress = Callable[..., None]
"""Called with (images done, images in all, what is shown before the bar)."""


@dataclass(frozen=True)
class TrainOptions:
    """How to train. Paths as given by the user.

    Attributes:
        output: folder of everything that is written.
        weights: to begin with; or `variant` alone, with random weights.
        coco: a folder in COCO's layout, with `split` and `val_split`; or `images` with `annotations` (and `val_images`
            with `val_annotations`); `data_format`: how annotations are written, "auto" by content.
        recipe, generation, settings: see `training.recipes`; `settings` may also have those of the augmentation.
        hparams: config fields of the model.
        image_size: (height, width), one number or text; None: the weights' or the variant's own.
        batch_size: images of one update over all processes; None: the recipe's, less for small data; "auto": what
            fits a GPU's memory.
        accumulate: batches that one update is made of.
        reset_head: "auto" begins the layer that predicts classes anew where the classes are others; "predict" does in
            any case; "whole" begins the whole class head anew.
        pretrained_backbone: without weights, timm's backbone trained on ImageNet (is downloaded).
        amp: "off", "bf16" or "fp16". checkpointing: compute activations of the backbone again in the backward pass.
        synchronised: batch norms over the images of all processes.
        evaluate_every: epochs; 0 never. evaluated: which weights are judged and kept: "auto" the averages once 90
            percent of what they began with is gone. nms: suppression profile.
        patience: stop after so many evaluations without a better AP. keep: how many of the best are kept for `average`.
        average: at the end the mean of the best so many as average.pth.
        save_every: updates between two saves of the state within an epoch; 0: after each epoch only.
        examine: look at the data before the first step (`training.data.doctor`).
        extra_logs: "tensorboard", "wandb". report: write report.html.
        say, progress: how it is told what happens.
        command: as it was typed, for the report.
    """

    output: Path
    weights: Path | None = None
    variant: str | None = None
    coco: Path | None = None
    split: str = "train2017"
    val_split: str = "val2017"
    images: Path | None = None
    annotations: Path | None = None
    val_images: Path | None = None
    val_annotations: Path | None = None
    data_format: str = "auto"
    recipe: str = "google"
    generation: str = "tf1"
    settings: Mapping[str, Any] = field(default_factory=dict)
    hparams: Mapping[str, Any] = field(default_factory=dict)
    image_size: str | int | tuple[int, int] | None = None
    batch_size: int | str | None = None
    accumulate: int = 1
    reset_head: str = "auto"
    pretrained_backbone: bool = False
    amp: str = "off"
    checkpointing: bool = False
    channels_last: bool | None = None
    compile: bool = False
    synchronised: bool = True
    device: str | None = None
    workers: int = 0
    evaluate_every: int = 1
    evaluated: str = "auto"
    nms: str | None = None
    patience: int | None = None
    average: int = 0
    save_every: int = 0
    resume: bool = False
    examine: bool = True
    extra_logs: tuple[str, ...] = ()
    report: bool = True
    say: Say = lambda text: None
    progress: Progress = lambda done, total, label="": None
    command: str = ""
