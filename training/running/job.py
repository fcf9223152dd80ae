"""What a training is to do: everything that can be checked and made before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from effdet_model.config import EfficientDetConfig
from effdet_model.devices import usable_device
from effdet_model.efficientdet import EfficientDet
from effdet_model.errors import InputError, unknown_name
from effdet_model.nms_profiles import profile_from_config
from porting.files import file_sha256, make_folder
from porting.version import tool_version
from training.recipes import Recipe, recipe
from training.records.logs import EXTRA_LOGS
from training.records.state import STATE_FILE
from training.running.checkup import usable_data
from training.running.data import Data, Loader
from training.running.options import AMP, EVALUATED, RESETS, TrainOptions
from training.running.rates import Schedule, schedule, shortened
from training.running.sources import open_data, open_loader
from training.running.starting_weights import Start, describe_file, starting_model
from verify.evaluation.metrics import check_evaluator
from verify.evaluation.ranks import Ranks
from verify.report import check_report


@dataclass(frozen=True)
class Job:
    """Everything that was checked and made before the first step."""

    options: TrainOptions
    recipe: Recipe
    model: EfficientDet
    start: Start
    data: Data
    loader: Loader
    schedule: Schedule
    rank: Ranks
    device: torch.device
    notes: tuple[str, ...]

    @property
    def config(self) -> EfficientDetConfig:
        """Of the model."""
        return self.model.config

    @property
    def settings(self) -> dict[str, Any]:
        """What the outcome depends on; a resumed run must have the same."""
        options = self.options
        return {
            "recipe": self.recipe.to_dict(),
            "config": self.config.to_dict(),
            "weights_sha256": self.weights_sha256,
            "data": self.data.fingerprint,
            "processes": self.rank.world,
            "device": self.device.type,
            "tool": tool_version(),
        } | {
            name: getattr(options, name)
            for name in (
                "accumulate", "amp", "checkpointing", "compile", "synchronised", "evaluate_every", "evaluated", "nms",
                "patience", "channels_last",
            )
        }  # fmt: skip

    @property
    def weights_sha256(self) -> str | None:
        """Of the file that training begins with."""
        return file_sha256(self.options.weights) if self.options.weights is not None else None

    @property
    def images_per_epoch(self) -> int:
        """How many training images there are."""
        return self.data.images

    def origin(self, variables: str, epoch: int, ap: float | None) -> dict[str, Any]:
        """What the metadata of trained weights say of their training."""
        return {
            "weights": describe_file(self.options.weights),
            "weights_sha256": self.weights_sha256,
            "variables": variables,
            "epoch": epoch,
            "AP": ap,
            "recipe": self.recipe.to_dict(),
            "images": self.data.images,
            "data": self.data.fingerprint,
        }


def check_options(options: TrainOptions) -> None:
    """Refuse what needs no file to be seen.

    Raises:
        InputError: an option is not as it must be.
    """
    for name, value, known in (
        ("amp", options.amp, AMP), ("reset head", options.reset_head, RESETS),
        ("weights to evaluate", options.evaluated, EVALUATED),
        *(("log", log, EXTRA_LOGS) for log in options.extra_logs),
    ):  # fmt: skip
        if value not in known:
            raise unknown_name(name, value, known)
    for name, least in (("accumulate", 1), ("workers", 0), ("evaluate_every", 0), ("average", 0), ("save_every", 0)):
        if getattr(options, name) < least:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}: expected a number from {least} on, found {getattr(options, name)}; correct it.")
    if options.patience is not None and options.patience < 1:
        raise InputError(f"--patience: expected a number from 1 on, found {options.patience}; correct it.")
    if options.average == 1:
        raise InputError("--average: expected 2 or more to average, or 0 for none, found 1; best.pth is the best one.")
    if options.resume and not options.output.is_dir():
        raise InputError(
            f"--resume: expected the folder of an interrupted training, found none at {options.output}; check the "
            "name, or leave --resume out to begin anew."
        )
    make_folder(options.output, "output folder")
    if options.report:
        check_report(options.output)
    state = options.output / STATE_FILE
    if state.exists() and not options.resume:
        raise InputError(
            f"--output {options.output}: expected a folder without a training, found {STATE_FILE} in it; go on with it "
            "by --resume, or name another folder."
        )


def chosen_recipe(options: TrainOptions, images: int) -> tuple[Recipe, list[str]]:
    """The recipe with what was overridden, made fit for short runs and small data; and what was changed."""
    given = {name: value for name, value in options.settings.items() if name in Recipe.__dataclass_fields__}
    chosen = recipe(options.recipe, generation=options.generation, **given)
    chosen, notes = shortened(chosen, set(given))
    if isinstance(options.batch_size, int):
        return chosen.replace(batch_size=options.batch_size), notes
    if "batch_size" in given:
        return chosen, notes
    least = 4
    while least * 2 * 16 <= images:  # at least 16 updates an epoch
        least *= 2
    if least < chosen.batch_size:
        notes.append(f"Small data: batches of {least} (recipe: {chosen.batch_size}); --batch-size sets it.")
        chosen = chosen.replace(batch_size=least)
    return chosen, notes


def prepare(options: TrainOptions, rank: Ranks) -> Job:
    """Check everything that can be checked before the first step; open data, make the model.

    Raises:
        InputError: an option, the weights or the data is not as it must be.
    """
    check_options(options)
    device = usable_device(options.device or _own_gpu(rank), "--device")
    if options.evaluate_every:
        check_evaluator()
    data = open_data(options)
    chosen, notes = chosen_recipe(options, data.images)
    start = starting_model(options, chosen, data.label_map)
    profile_from_config(start.model.config, options.nms)
    if options.examine:
        data = usable_data(options, data, start.model.config, rank)
    if options.batch_size == "auto":
        from training.running.batch_size import largest_batch

        found = largest_batch(start.model, chosen, options, device) * rank.world * options.accumulate
        chosen = chosen.replace(batch_size=min(rank.gather(found)))
        notes.append(f"Batches of {chosen.batch_size} fit the memory of {device}.")
    micro = _micro_batch(chosen.batch_size, options, rank)
    loader = open_loader(options, data, start.model.config, chosen, micro, rank)
    steps = -(-loader.steps_per_epoch // options.accumulate)
    model = start.model.to(device)
    if options.channels_last if options.channels_last is not None else device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    plan = schedule(chosen, steps, chosen.batch_size)
    return Job(
        options, chosen, model, start, data, loader, plan, rank, device, (*data.notes, *start.notes, *notes)
    )


def _micro_batch(batch_size: int, options: TrainOptions, rank: Ranks) -> int:
    """Images of one process that go through the network at once."""
    parts = options.accumulate * rank.world
    if batch_size % parts:
        raise InputError(
            f"--batch-size: expected a multiple of {parts} ({rank.world} processes, --accumulate "
            f"{options.accumulate}), found {batch_size}; choose another."
        )
    return batch_size // parts


def _own_gpu(rank: Ranks) -> str:
    """Processes of one machine take its GPUs in turn."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{rank.local_rank % torch.cuda.device_count()}"
