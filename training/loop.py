"""The training loop, from top to bottom."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence

import torch

from effdet_model.errors import CheckFailedError
from training.records.average import average_files
from training.records.bad_batch import keep_batch
from training.records.files import TrainedFiles
from training.records.logs import StepLog, open_sinks, write_epochs
from training.records.report import write_training_report
from training.records.state import Progressed, has_state, read_state, write_state
from training.running.data import Batch
from training.running.job import Job, prepare
from training.running.judge import Judge
from training.running.memory import save_activations
from training.running.options import TrainOptions
from training.running.outcome import Trained
from training.step import MicroBatch, NotFinite, StepResult, TrainingStep
from training.targets import AnchorLabeler
from verify.evaluation.ranks import Ranks, ranks

_MOST_OVERFLOWS = 25


def train(options: TrainOptions) -> Trained | None:
    """Train; started by torchrun, every process takes its share, and the first one returns what came of it.

    Raises:
        InputError: an option, the weights or the data is not as it must be.
        CheckFailedError: losses or gradients became NaN; the last good files stay.
    """
    with ranks() as rank:
        job = prepare(options, rank)
        if rank.is_first:
            for note in job.notes:
                options.say(note)
        return run(job, rank)


def run(job: Job, rank: Ranks) -> Trained | None:
    """Train as a job says."""
    options, plan = job.options, job.schedule
    labeler = AnchorLabeler(job.config, job.recipe.box_coder)
    judge = Judge(job)
    if options.checkpointing:
        save_activations(job.model)
    step = TrainingStep(
        job.model, job.recipe, amp=None if options.amp == "off" else options.amp, synchronised=options.synchronised
    )
    progressed = Progressed()
    if options.resume and has_state(options.output):
        tensors, progressed = read_state(options.output, job.settings)
        step.load_state_dict(tensors)
    if options.compile:
        step.network = torch.compile(step.network)  # type: ignore[assignment]
    step.distribute()
    rank.wait()  # all have read before the first one writes
    files = TrainedFiles(job)
    log = StepLog(options.output, progressed.step) if rank.is_first else None
    sinks = open_sinks(options.extra_logs, options.output, job.settings) if rank.is_first else []

    def save() -> None:
        if rank.is_first:
            write_state(options.output, step.state_dict(), progressed, job.settings)

    if not options.resume:
        save()
    while progressed.epoch < plan.epochs and not progressed.stopped:
        started, done_before = time.monotonic(), progressed.batch
        batches = job.loader.epoch(progressed.epoch, progressed.batch)
        for group in groups(batches, options.accumulate):
            rate = plan.rate(progressed.step)
            seed_step(job.recipe.seed, progressed.step, rank.rank)
            micro = [labelled(batch, labeler, job.device) for batch in group]
            try:
                result = step(micro, rate)
            except NotFinite as found:
                raise _not_finite(job, found, group, progressed) from None
            progressed.step += 1
            progressed.batch += len(group)
            _count(progressed, result, job)
            if log is not None:
                numbers = _numbers(result, rate)
                log.write({"step": progressed.step, "epoch": progressed.epoch + 1, **numbers})
                for sink in sinks:
                    sink.write(numbers, progressed.step)
                _show(job, progressed, numbers)
            if options.save_every and progressed.step % options.save_every == 0:
                save()

        row = _epoch_row(progressed, plan.rate(progressed.step - 1), job, time.monotonic() - started, done_before)
        progressed.epoch, progressed.batch, progressed.sums, progressed.epoch_steps = progressed.epoch + 1, 0, {}, 0
        last = progressed.epoch == plan.epochs
        if options.evaluate_every and (last or progressed.epoch % options.evaluate_every == 0):
            result_of = judge.evaluate(judge.weights(step), f"epoch {progressed.epoch}")
            metrics = result_of.metrics.values if result_of and result_of.metrics else {}
            row.update({name: float(value) for name, value in metrics.items()})
            _stop_early(job, progressed, rank.gather(row.get("AP"))[0])
        progressed.history.append(row)
        if rank.is_first:
            files.write(judge.weights(step), judge.variables(step), progressed)
            write_epochs(options.output, progressed.history)
            for sink in sinks:
                sink.write(row, progressed.step)
            options.say(_epoch_line(row, plan.epochs, progressed))
        save()

    if log is not None:
        log.close()
    for sink in sinks:
        sink.close()
    if options.average and rank.is_first:
        average_files(job, progressed, options.average)
    return _finished(job, judge, files, progressed)


def groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """The batches of each update; the last may be fewer."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def seed_step(seed: int, step: int, rank: int) -> None:
    """What is random in a step depends on the step and the process alone, so that resuming changes nothing."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def labelled(batch: Batch, labeler: AnchorLabeler, device: torch.device) -> MicroBatch:
    """A batch on the device, with the targets of its images."""
    targets = [labeler(boxes, classes) for boxes, classes in zip(batch.boxes, batch.classes, strict=True)]
    return MicroBatch(batch.images.to(device, non_blocking=True), targets)


def _count(progressed: Progressed, result: StepResult, job: Job) -> None:
    """Add a step's losses to the epoch's; stop where float16 overflows for good."""
    for name, value in result.losses.items():
        progressed.sums[name] = progressed.sums.get(name, 0.0) + float(value)
    progressed.epoch_steps += 1
    progressed.overflows = 0 if result.updated else progressed.overflows + 1
    if progressed.overflows >= _MOST_OVERFLOWS:
        raise CheckFailedError(
            f"training: gradients overflowed float16 in {progressed.overflows} updates in a row, up to step "
            f"{progressed.step}; files in {job.options.output} are of the last epoch; use --amp bf16 or off."
        )


def _numbers(result: StepResult, rate: float) -> dict[str, float]:
    losses = {name: float(value) for name, value in result.losses.items()}
    return {"learning_rate": rate, **losses, "gradient_norm": float(result.gradient_norm)}


def _epoch_row(
    progressed: Progressed, rate: float, job: Job, seconds: float, done_before: int
) -> dict[str, float]:
    """An epoch's line of log.csv: means of its losses."""
    means = {name: total / max(1, progressed.epoch_steps) for name, total in progressed.sums.items()}
    share = (progressed.batch - done_before) / max(1, progressed.batch)
    speed = {"images_per_second": round(job.images_per_epoch * share / max(seconds, 1e-9), 2)}
    return {"epoch": progressed.epoch + 1, "step": progressed.step, "learning_rate": rate, **means, **speed}


def _stop_early(job: Job, progressed: Progressed, ap: float | None) -> None:
    """Note the best so far, and whether to go on."""
    if ap is None:
        return
    if progressed.best is None or ap > progressed.best:
        progressed.best, progressed.best_epoch, progressed.since_best = ap, progressed.epoch, 0
        return
    progressed.since_best += 1
    if job.options.patience is not None and progressed.since_best >= job.options.patience:
        progressed.stopped = f"stopped after {progressed.since_best} evaluations without a better AP"


def _not_finite(job: Job, found: NotFinite, group: Sequence[Batch], progressed: Progressed) -> CheckFailedError:
    """Keep the batch, and say where training stands."""
    path = keep_batch(job.options.output, group, progressed.step + 1, job.rank.rank)
    bad = [f"{name} {value:g}" for name, value in found.losses.items() if not math.isfinite(value)]
    if found.gradient_norm is not None and not math.isfinite(found.gradient_norm):
        bad.append(f"gradient norm {found.gradient_norm:g}")
    kept = f"last.pth is of epoch {progressed.epoch}" if progressed.epoch else "no weights were written yet"
    return CheckFailedError(
        f"training: expected finite losses, found {', '.join(bad[:4])} at step {progressed.step + 1} (epoch "
        f"{progressed.epoch + 1}); its batch is kept in {path}, {kept}; look at its boxes, lower learning_rate, or "
        "leave --amp out."
    )


def _show(job: Job, progressed: Progressed, numbers: dict[str, float]) -> None:
    share = progressed.batch / job.loader.steps_per_epoch
    label = f"epoch {progressed.epoch + 1}/{job.schedule.epochs}  loss {numbers['loss']:.3f}"
    job.options.progress(round(share * job.images_per_epoch), job.images_per_epoch, label)


def _epoch_line(row: dict[str, float], epochs: int, progressed: Progressed) -> str:
    line = f"epoch {row['epoch']:.0f}/{epochs}  loss {row['loss']:.4f}  class {row['class_loss']:.4f}  box "
    line += f"{row['box_loss']:.5f}  {row['images_per_second']:.1f} images/s"
    if "AP" in row:
        line += f"  AP {row['AP']:.4f}" + ("  best" if progressed.best_epoch == progressed.epoch else "")
    return line


def _finished(job: Job, judge: Judge, files: TrainedFiles, progressed: Progressed) -> Trained | None:
    """Judge best.pth for the report."""
    evaluation = None
    if progressed.best is not None:
        evaluation = judge.evaluate(files.best_weights(), str(files.best), report=True)
    if not job.rank.is_first:
        return None
    done = Trained(
        job.options.output, progressed.epoch, progressed.step, progressed.history, progressed.best,
        progressed.best_epoch, progressed.stopped, files.written(), evaluation,
    )  # fmt: skip
    if not job.options.report:
        return done
    return dataclasses.replace(done, files=[*done.files, *write_training_report(job, done)])
