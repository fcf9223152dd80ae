"""A training as a page: curves, first batches, and the evaluation of its best weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.records.logs import STEPS_FILE, read_rows
from training.records.pictures import first_batches
from training.running.job import Job
from training.running.outcome import Trained
from verify.evaluation.result import EvaluationResult
from verify.report import write_report
from verify.report.blocks import (
    Block,
    Column,
    Facts,
    Figure,
    KeyFigure,
    Note,
    Picture,
    Pictures,
    Report,
    Row,
    Table,
    Verdict,
)
from verify.report.evaluation import evaluation_report
from verify.report.figures import SERIES, base_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

STEM = "report"
_MOST_POINTS = 2000
_LOSSES = ("loss", "class_loss", "box_loss", "box_iou_loss", "reg_l2_loss")
_WHOLE = ("epoch", "step")
_APS = ("AP", "AP50", "AP75")
_LEFT_OUT = ("Notes", "How to reproduce", "Settings", "Environment", "Model config")


def write_training_report(job: Job, done: Trained) -> list[Path]:
    """Write report.md and report.html into the output folder; their paths.

    Raises:
        InputError: the extra `report` is not installed.
    """
    return write_report(training_report(job, done), job.options.output, STEM)


def training_report(job: Job, done: Trained) -> Report:
    """The page of a training."""
    height, width = job.config.image_size
    return Report(
        title=f"Training: {job.config.name}",
        subtitle=f"{job.data.images} images at {height} x {width}, {len(job.data.label_map)} classes, recipe "
        f"{job.recipe.name}",
        verdict=Verdict(True, _sentence(done), "trained"),
        key_figures=tuple(_key_figures(done)),
        blocks=tuple(_blocks(job, done)),
    )


def _sentence(done: Trained) -> str:
    text = f"{done.epochs} epochs, {done.steps} updates"
    if done.best is not None:
        text += f"; AP {100 * done.best:.2f} after epoch {done.best_epoch}"
    return f"{text}; {done.stopped}." if done.stopped else f"{text}."


def _key_figures(done: Trained) -> Iterator[KeyFigure]:
    if done.best is not None:
        yield KeyFigure("Best AP", f"{done.best:.4f}", f"epoch {done.best_epoch}")
    if done.history:
        last = done.history[-1]
        yield KeyFigure("Last loss", f"{last['loss']:.4f}", "mean of the last epoch")
        yield KeyFigure("Speed", f"{last['images_per_second']:.1f}", "images per second, last epoch")


def _blocks(job: Job, done: Trained) -> Iterator[Block]:
    if job.notes:
        yield Note("Notes", f"{len(job.notes)} to know of this run.", job.notes)
    mosaic = first_batches(job)
    if mosaic is not None:
        picture = Picture(mosaic, "The first training pictures with their boxes.", "As the network gets them.")
        yield Pictures("First batches", (picture,), columns=1)
    yield from _curves(job, done)
    yield _epochs(done)
    if done.evaluation is not None:
        yield from _evaluation(done.evaluation)
    yield Facts("How to repeat it", {"command": job.options.command, "weights": job.origin("", 0, None)["weights"]})
    yield Facts("Recipe", job.recipe.to_dict(), collapsed=True)
    yield Facts("Model config", job.config.to_dict(), collapsed=True, media=frozenset(("html",)))


def _curves(job: Job, done: Trained) -> Iterator[Figure]:
    steps = read_rows(job.options.output / STEPS_FILE)
    if steps:
        yield Figure(
            "Loss", _lines(_thinned(steps), "step", _LOSSES, "updates", "loss", log=True), key="loss",
            alternative="The loss and its parts over the updates.",
            caption="Parts are not weighted: loss = class loss + box loss weight x box loss + the rest.",
        )  # fmt: skip
        yield Figure(
            "Learning rate and gradient", _lines(_thinned(steps), "step", ("learning_rate", "gradient_norm"), "updates",
            "rate, norm before clipping", log=True), key="rate",
            alternative="Learning rate and gradient norm over the updates.", height=320,
        )  # fmt: skip
    judged = [row for row in done.history if "AP" in row]
    if judged:
        yield Figure(
            "AP", _lines(judged, "epoch", _APS, "epochs", "AP"), key="ap",
            alternative="AP, AP50 and AP75 on the validation images after each epoch.",
        )  # fmt: skip


def _lines(
    rows: Sequence[Mapping[str, object]], over: str, names: Sequence[str], x_title: str, y_title: str,
    log: bool = False,
) -> go.Figure:
    figure = base_figure(x_title, y_title)
    for number, name in enumerate(names):
        points = [(float(str(row[over])), float(str(row[name]))) for row in rows if row.get(name) not in (None, "")]
        if points:
            figure.add_scatter(
                name=name.replace("_", " "), mode="lines+markers" if len(points) < 60 else "lines",
                x=[x for x, _ in points], y=[y for _, y in points], line={"color": SERIES[number], "width": 1.6},
                hovertemplate="%{x}: %{y:.4g}<extra></extra>",
            )  # fmt: skip
    if log:
        figure.update_yaxes(type="log", exponentformat="power")
    return figure


def _thinned(rows: Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    every = -(-len(rows) // _MOST_POINTS)
    return rows[::every]


def _epochs(done: Trained) -> Table:
    names = list(dict.fromkeys(name for row in done.history for name in row))
    essential = {"epoch", "loss", "AP", "AP50"}
    columns = tuple(
        Column(name.replace("_", " "), "number", "" if name in _WHOLE else ".5g", essential=name in essential)
        for name in names
    )
    rows = tuple(
        Row(tuple(int(row[name]) if name in _WHOLE else row.get(name, "") for name in names))
        for row in done.history
    )
    return Table("Epochs", columns, rows, key="epochs", fold=True)


def _evaluation(result: EvaluationResult) -> Iterator[Block]:
    for block in evaluation_report(result).blocks:
        if block.title not in _LEFT_OUT:
            yield block
