"""The hyperparameters of a checkpoint's training: given, or in the config.yaml that google/automl's trainers leave."""

from __future__ import annotations

import re
from pathlib import Path

from effdet_model.errors import InputError
from effdet_model.hparams import AUTO, Hparams, parse_hparams
from porting.checkpoint.locate import has_graph

CONFIG_FILE = "config.yaml"
UNTOLD = (
    "act_type", "survival_prob", "conv_after_downsample", "aspect_ratios", "anchor_scale", "image_size", "mean_rgb",
    "stddev_rgb", "scale_range", "label_map", "nms_configs",
)  # fmt: skip
"""Config fields that no variable's name or shape tells, and that change what a model computes or finds."""

_READ_ELSEWHERE = ("moving_average_decay", "name")
"""They say which values count, and which variant it is."""
_BUNDLE_FILE = re.compile(r"checkpoint|.+\.(?:index|meta|data-\d{5}-of-\d{5})")
_KEPT_BESIDE = ("archive", "backup")
"""Folders of a trainer's model_dir into which it copies checkpoints, without their config.yaml."""


def find_config(checkpoint: Path) -> Path | None:
    """The config.yaml of the folder that a checkpoint (folder, prefix or a bundle's file) lies in; None: none there."""
    if checkpoint.is_dir():
        folder = checkpoint
    elif checkpoint.is_file() and not _BUNDLE_FILE.fullmatch(checkpoint.name):
        return None  # an archive or a .h5 file, which people move around alone
    else:
        folder = checkpoint.parent
    folders = [folder, folder.parent] if folder.resolve().name in _KEPT_BESIDE else [folder]
    return next((place / CONFIG_FILE for place in folders if (place / CONFIG_FILE).is_file()), None)


def training_hparams(hparams: str | None, checkpoint: str | None, official: bool) -> tuple[Hparams, tuple[str, ...]]:
    """The hyperparameters that go with a checkpoint, and what to tell of them.

    Args:
        hparams: what google/automl's --hparams takes, or "auto": the config.yaml beside the checkpoint.
        checkpoint: a path or URL, None for an official one. official: it is one that Google released.

    Raises:
        InputError: also where `hparams` is "auto" and there is no config.yaml.
    """
    path = Path(checkpoint) if checkpoint is not None and "://" not in checkpoint else None
    if hparams == AUTO and path is not None:
        found = find_config(path)
        if found is None:
            raise InputError(
                f"--hparams auto: expected {CONFIG_FILE} in the folder of {path}, found none; name the YAML file with "
                "the training's hyperparameters, or leave --hparams out."
            )
        parsed = parse_hparams(str(found))
        return parsed, (f"hyperparameters of the training from {found}", *_ignored(parsed))
    parsed = parse_hparams(hparams)
    if hparams or official:
        return parsed, _ignored(parsed)
    names = ", ".join(UNTOLD)
    if path is not None and has_graph(path):
        notes = [f"of {names}, what the file's own graph does not say is the variant's own: give the training's with "
                 "--hparams if they differ"]  # fmt: skip
    else:
        notes = [f"no checkpoint tells {names}: the variant's own were taken; give the training's with --hparams if "
                 "they differ"]  # fmt: skip
    if path is not None and (beside := find_config(path)) is not None:
        notes.append(f"{beside} lies beside the checkpoint and was not used; --hparams auto takes it")
    return parsed, tuple(notes)


def _ignored(parsed: Hparams) -> tuple[str, ...]:
    unread = [key for key in parsed.ignored if key not in _READ_ELSEWHERE]
    return (f"--hparams that only training reads: {', '.join(unread)}",) if unread else ()
