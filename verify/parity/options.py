"""What a parity run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.evaluation.options import Progress


@dataclass(frozen=True)
class ParityOptions:
    """What to compare, and how. Paths as given by the user.

    Attributes:
        checkpoint: anything `porting.checkpoint.sources.open_source` opens. weights: .pth or .safetensors.
        variant: may be None where the weights' metadata names it.
        images: a folder; with `annotations`, those of its images that the file lists. coco: a folder in COCO's layout,
            of which `split` is taken, instead.
        nms: name of a suppression profile; None: the published one with `as_published`, else numpy_gaussian.
        image_size: (height, width), one number or text; None: the weights' own.
        as_published: anchors and suppression of the day on which the weights' `family` was published.
        variables: "ema" or "raw"; "auto": what the weights were made of, as their metadata says.
        limit: only the first so many images. pictures: how many of the worst to draw.
        progress: called with (images done, how many there are).
        overrides: config fields of the port, e.g. parsed from --hparams.
        hparams: what the user declares of the checkpoint, as --hparams has it; by default `overrides`.
        work: a folder for the work file, which `resume` continues; None: nothing is written.
        threads: of both frameworks together; None: as many as there are cores to use.
        engine: what runs PyTorch's network, see `effdet_model.engines`; None: the model as it is, alone evidence
            for a release.
        command: how to do it again, for the report.
    """

    checkpoint: str | Path
    weights: str | Path
    variant: str | None = None
    images: str | Path | None = None
    annotations: str | Path | None = None
    coco: str | Path | None = None
    split: str = "val2017"
    nms: str | None = None
    image_size: int | str | tuple[int, int] | None = None
    as_published: bool = False
    family: str | None = None
    variables: str = "auto"
    limit: int | None = None
    skip_bad_images: bool = False
    pictures: int = 6
    progress: Progress | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hparams: str | Mapping[str, Any] | None = None
    work: str | Path | None = None
    resume: bool = False
    threads: int | None = None
    engine: str | None = None
    command: str = ""

    @property
    def declared(self) -> str | Mapping[str, Any]:
        """What the user says of the checkpoint's configuration and training."""
        return self.overrides if self.hparams is None else self.hparams
