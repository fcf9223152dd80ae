"""What an evaluation is asked for, and the command that asks for it again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]
"""Called with (images done, how many there are)."""


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate, and how. Paths as given by the user.

    Attributes:
        variant: may be None where the weights' metadata names it.
        coco: a folder in COCO's layout, of which `split` is taken; or `images` and `annotations`.
        nms: name of a suppression profile; None: the published one with `as_published`, else numpy_gaussian.
        image_size: (height, width), one number or text; None: the weights' own.
        as_published: anchors and suppression of the day on which the weights' `family` was published.
        detections: where COCO results go (.json, or .zip). metrics: where the metrics go, as JSON.
        workers: threads that read images ahead. device: e.g. "cpu", "cuda", "cuda:1"; None: a GPU if there is one.
        amp: mixed precision (bfloat16 on the CPU, float16 on a GPU). compile: the engine
            "compile". engine: what runs the network, see `effdet_model.engines`; None: the inference form where that
            is proved to give what the model gives, else the model.
        channels_last: NHWC memory format; None: on the CPU, where it is faster.
        resume: continue where an earlier run with the same settings ended.
        skip_bad_images: leave out, and count, what cannot be used, instead of refusing it.
        evaluator: engine of the metrics. limit: only the first so many images.
        progress: called with (images done, how many there are), under torchrun in the first process.
        overrides: config fields, e.g. parsed from --hparams. hparams: the text that they were parsed from, as a record.
        report: folder of a page about this run; its analysis is made only then.
    """

    weights: str | Path
    variant: str | None = None
    coco: str | Path | None = None
    split: str = "val2017"
    images: str | Path | None = None
    annotations: str | Path | None = None
    nms: str | None = None
    image_size: int | str | tuple[int, int] | None = None
    as_published: bool = False
    family: str | None = None
    detections: str | Path | None = None
    metrics: str | Path | None = None
    report: str | Path | None = None
    batch_size: int = 8
    workers: int = 2
    device: str | None = None
    amp: bool = False
    channels_last: bool | None = None
    compile: bool = False
    engine: str | None = None
    resume: bool = False
    skip_bad_images: bool = False
    evaluator: str = "pycocotools"
    limit: int | None = None
    progress: Progress | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hparams: str | None = None


_VALUES = (
    "variant", "weights", "coco", "images", "annotations", "nms", "image_size", "family", "hparams", "detections",
    "metrics", "device", "limit", "report", "engine",
)  # fmt: skip
_FLAGS = ("as_published", "amp", "compile", "skip_bad_images")
_DEFAULTS = {"split": "val2017", "batch_size": 8, "workers": 2, "evaluator": "pycocotools"}


def command(options: EvaluateOptions, processes: int = 1) -> str:
    """`python cli.py evaluate ...` with every option that is not at its default."""
    start = ["torchrun", "--nproc-per-node", str(processes)] if processes > 1 else ["python"]
    return shlex.join([*start, "cli.py", "evaluate", *_words(options)])


def _words(options: EvaluateOptions) -> Iterator[str]:
    for name in _VALUES:
        value = getattr(options, name)
        if value is not None:
            yield from (_option(name), "x".join(map(str, value)) if isinstance(value, tuple) else str(value))
    for name, default in _DEFAULTS.items():
        if getattr(options, name) != default:
            yield from (_option(name), str(getattr(options, name)))
    yield from (_option(name) for name in _FLAGS if getattr(options, name))
    if options.channels_last is not None:
        yield "--channels-last" if options.channels_last else "--no-channels-last"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
