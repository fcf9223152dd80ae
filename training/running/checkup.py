"""The data doctor before the first step, and alone for `train --check`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from effdet_model.config import EfficientDetConfig
from training.data.doctor import DataReport, examine
from training.recipes import recipe
from training.running.data import Data
from training.running.options import TrainOptions
from training.running.sources import open_data
from training.running.starting_weights import starting_model
from verify.evaluation.ranks import Ranks

_CHECKED = "data"


def check_data(options: TrainOptions) -> tuple[DataReport, list[Path]]:
    """Look at the data alone: every picture is decoded; what was found, and the files that say it.

    Raises:
        InputError: an option is not as it must be. What is wrong with the data is in the report.
    """
    data = open_data(options)
    config = starting_model(options, recipe(options.recipe), data.label_map).model.config
    report = examine(
        data.dataset, config, validation=data.validation_dataset, every_image=True, progress=options.progress
    )
    return report, report.save(options.output / _CHECKED)


def usable_data(options: TrainOptions, data: Data, config: EfficientDetConfig, rank: Ranks) -> Data:
    """The data without pictures that cannot be used, after a look at all; warnings are told.

    Raises:
        InputError: it cannot be trained on.
    """
    unusable: list[int] = []
    if rank.is_first:
        report = examine(data.dataset, config, validation=data.validation_dataset, progress=options.progress)
        if report.findings:
            report.save(options.output / _CHECKED)
        report.refuse()
        for finding in report.warnings:
            options.say(f"warning: {finding.message}")
        unusable = list(report.unusable)
    unusable = rank.gather(unusable)[0]
    if not unusable:
        return data
    left_out = set(unusable)
    dataset = data.dataset.subset(index for index in range(len(data.dataset)) if index not in left_out)
    note = f"{len(unusable)} pictures that cannot be used are left out."
    return dataclasses.replace(data, dataset=dataset, images=len(dataset), notes=(*data.notes, note))
