"""A parity run as a report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from verify.evaluation.metrics import METRIC_NAMES
from verify.evaluation.published import AP_TOLERANCE
from verify.parity.matching import worst_first
from verify.parity.result import AGREEMENT_WANTED, STRONG_WANTED, ParityResult, StageDifference
from verify.report import make_folder, print_report, write_report
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
    duration,
)
from verify.report.diff import short_path

if TYPE_CHECKING:
    from rich.console import Console

WORST_SHOWN = 10
_BOX = Column("Box difference", "number", ".2e", essential=True, hint="Largest within the pairs, in original pixels.")
_SCORE = Column("Score difference", "number", ".2e", essential=True, hint="Largest within the pairs.")
_DISAGREEMENT = Column(
    "Disagreement", "number", ".3g", essential=True, hint="Sum of the scores of all detections without a partner."
)
_IMAGE_COLUMNS = (
    Column("#", "number", hint="Place in the dataset."),
    Column("Image", "name", essential=True),
    Column("Id", "number", hint="COCO image id."),
    Column("TensorFlow", "number", hint="Detections."),
    Column("PyTorch", "number", hint="Detections."),
    Column("Pairs", "number", essential=True, hint="Of the same class, within 0.1 pixel and 1e-4 in score."),
    _BOX,
    _SCORE,
    _DISAGREEMENT,
)


def parity_report(result: ParityResult, with_figure: bool = True) -> Report:
    """The report of a parity run, for any medium.

    Args:
        with_figure: add the plot and pictures; only the HTML page shows them.
    """
    height, width = result.image_size
    return Report(
        title=f"Parity: {result.variant}",
        subtitle=f"TensorFlow against PyTorch, {len(result.images)} images at {height} x {width}, {result.nms['name']}",
        verdict=Verdict(result.passed, result.verdict),
        key_figures=tuple(_key_figures(result)),
        blocks=tuple(_blocks(result, with_figure)),
    )


def write_parity_report(result: ParityResult, folder: Path) -> list[Path]:
    """Write `parity.json`, `parity.md` and `parity.html` into `folder`, which is made where it is missing.

    Returns:
        The paths written, in this order. Each file appears whole or not at all.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    make_folder(folder)
    data = folder / "parity.json"
    result.write_json(data)
    return [data, *write_report(parity_report(result), folder, "parity")]


def print_parity(result: ParityResult, console: Console) -> None:
    """Print stages, metrics, the worst images, a summary and the verdict; colour only on a terminal."""
    print_report(parity_report(result, with_figure=False), console)


def _key_figures(result: ParityResult) -> Iterator[KeyFigure]:
    yield KeyFigure("Agreement AP", f"{result.agreement.ap:.4f}", f"at least {AGREEMENT_WANTED} wanted")
    pairs = sum(image.matched for image in result.images)
    total = sum(image.tensorflow for image in result.images)
    yield KeyFigure("Boxes that agree", f"{pairs} of {total}", "within 0.1 pixel and 1e-4 in score")
    yield KeyFigure("Strong boxes", f"{result.strong_share:.2%}", f"score from 0.05 on; {STRONG_WANTED:.1%} wanted")
    if result.tensorflow_metrics is not None and result.pytorch_metrics is not None:
        theirs, mine = result.tensorflow_metrics.ap, result.pytorch_metrics.ap
        yield KeyFigure("AP", f"{100 * mine:.2f}", f"TensorFlow: {100 * theirs:.2f}")
    if result.published is not None:
        yield KeyFigure("Published AP", f"{result.published.published_ap:.1f}", _published_remark(result))
    yield KeyFigure("Difference born in", result.born_in or "none")
    if "total" in result.seconds:
        yield KeyFigure("Time", duration(result.seconds["total"]))


def _published_remark(result: ParityResult) -> str:
    assert result.published is not None
    if not result.published.judged:
        return "not judged"
    return f"{result.published.difference:+.2f}, {AP_TOLERANCE} allowed"


def _blocks(result: ParityResult, with_figure: bool) -> Iterator[Block]:
    if result.failures:
        first, *others = result.failures
        yield Note("What is not as it must be", first, tuple(others), _next_step(result), warning=True)
    yield _stages(result)
    yield _metrics(result)
    yield _per_class(result)
    if with_figure and result.images:
        yield _figure(result)
        yield _pictures(result)
    yield _worst(result)
    yield _images(result)
    if result.notes:
        yield Note("Notes", f"{len(result.notes)} to know of these numbers.", result.notes)
    if result.skipped:
        reasons = tuple(f"{image.path or image.id}: {image.reason}" for image in result.skipped[:20])
        yield Note("Skipped", f"{len(result.skipped)} images that could not be used.", reasons, warning=True)
    yield Facts("What was compared", _compared(result))
    yield Facts("Suppression", result.nms)
    yield Facts("Environment", result.environment)
    yield Facts("Model config", result.config, collapsed=True, media=frozenset(("html", "markdown")))


def _next_step(result: ParityResult) -> str:
    if result.born_in == "network":
        return "Run diff on the same files: it names the first layer that differs."
    if result.born_in is not None:
        return f"Look at {result.born_in}: it differs even on TensorFlow's own input."
    return "No stage differs on its own: look at the images with the largest disagreement."


def _stages(result: ParityResult) -> Table:
    columns = (
        Column("Stage", "name", essential=True),
        Column("Alone", "number", ".2e", essential=True, hint="Largest difference on TensorFlow's own input; judged."),
        Column("Allowed", "number", ".0e", essential=True),
        Column("Unit", "text", essential=True),
        Column("Differing alone", "text", hint="Beyond what is allowed, or without a counterpart."),
        Column("Worst image alone", "name"),
        Column("From the file", "number", ".2e", essential=True, hint="The same, behind PyTorch's own earlier stages."),
        Column("Differing from the file", "text"),
        Column("Worst image from the file", "name"),
    )
    rows = tuple(
        Row(
            (
                stage.name, stage.alone.largest, stage.alone.tolerance, stage.unit, _count(stage.alone, stage.items),
                stage.alone.worst_image, stage.from_file.largest, _count(stage.from_file, stage.items),
                stage.from_file.worst_image,
            ),
            stage.ok,
        )
        for stage in result.stages
    )  # fmt: skip
    return Table("Stage by stage", columns, rows, key="stages", failing_word="differs")


def _count(difference: StageDifference, items: str) -> str:
    return f"{difference.differing} of {difference.items} {items}"


def _metrics(result: ParityResult) -> Table:
    columns = (
        Column("Metric", "name", essential=True),
        Column("TensorFlow", "number", ".4f", essential=True),
        Column("PyTorch", "number", ".4f", essential=True),
        Column("Difference", "number", "+.4f", essential=True),
    )
    theirs, mine = result.tensorflow_metrics, result.pytorch_metrics
    if theirs is None or mine is None:
        return Table("COCO metrics", columns, (), key="metrics")
    rows = tuple(
        Row((name, theirs.values[name], mine.values[name], mine.values[name] - theirs.values[name]))
        for name in METRIC_NAMES
    )
    return Table("COCO metrics", columns, rows, key="metrics")


def _per_class(result: ParityResult) -> Table:
    columns = (
        Column("Category", "text", essential=True),
        Column("TensorFlow", "number", ".4f", essential=True),
        Column("PyTorch", "number", ".4f", essential=True),
        Column("Difference", "number", "+.4f", essential=True),
    )
    theirs, mine = result.tensorflow_metrics, result.pytorch_metrics
    rows: tuple[Row, ...] = ()
    if theirs is not None and mine is not None:
        rows = tuple(
            Row((name, value, mine.per_class[name], mine.per_class[name] - value))
            for name, value in theirs.per_class.items()
            if value >= 0
        )
    return Table(
        "AP of every category", columns, rows, key="categories", filter_label="Filter categories", fold=True,
        media=frozenset(("html", "markdown")),
    )


def _figure(result: ParityResult) -> Figure:
    from verify.report.figures import Point, error_over_depth

    points = [
        Point(
            image.file_name,
            "all boxes paired" if image.matched == image.tensorflow == image.pytorch else "some without a partner",
            image.box_difference,
            0.1,
            (
                f"pairs {image.matched} of {image.tensorflow} and {image.pytorch}",
                f"score difference {image.score_difference:.2e}",
                f"disagreement {image.disagreement:.3g}",
            ),
        )
        for image in result.images
    ]
    return Figure(
        "Box difference per image",
        error_over_depth(points, None, unit="largest box difference, pixels", depth="images"),
        key="images-plot",
        alternative="Largest difference of paired boxes of every image, in pixels on a logarithmic axis. The table of "
        "images holds the same numbers.",
        caption="Click a point to see its row in the table.",
        rows_of="images",
    )


def _pictures(result: ParityResult) -> Pictures:
    by_id = {image.image_id: image for image in result.images}
    pictures = []
    for image_id, data in result.pictures:
        image = by_id[image_id]
        caption = f"{image.file_name}: {image.matched} pairs, disagreement {image.disagreement:.3g}"
        alternative = f"Detections of TensorFlow, left, and PyTorch, right, on {image.file_name}"
        pictures.append(Picture(data, alternative, caption))
    return Pictures("Largest disagreement, side by side", tuple(pictures), columns=1)


def _worst(result: ParityResult) -> Table:
    worst = worst_first(list(result.images))[:WORST_SHOWN]
    names = (Column("Image", "name", essential=True), Column("Pairs", "text", essential=True))
    columns = (*names, _BOX, _SCORE, _DISAGREEMENT)
    rows = tuple(
        Row(
            (
                image.file_name, f"{image.matched} of {max(image.tensorflow, image.pytorch)}", image.box_difference,
                image.score_difference, image.disagreement,
            )
        )
        for image in worst
    )  # fmt: skip
    title = f"Largest disagreement: {len(rows)} of {len(result.images)} images"
    return Table(title, columns, rows, key="worst", media=frozenset(("terminal", "markdown")))


def _images(result: ParityResult) -> Table:
    rows = tuple(
        Row(
            (
                place, image.file_name, image.image_id, image.tensorflow, image.pytorch, image.matched,
                image.box_difference, image.score_difference, image.disagreement,
            ),
            image.matched == image.tensorflow == image.pytorch,
        )
        for place, image in enumerate(result.images)
    )  # fmt: skip
    return Table(
        f"All {len(rows)} images", _IMAGE_COLUMNS, rows, key="images", filter_label="Filter images", fold=True,
        failing_word="differs", media=frozenset(("html", "markdown")),
    )


def _compared(result: ParityResult) -> dict[str, object]:
    height, width = result.image_size
    facts: dict[str, object] = {
        "variant": result.variant,
        "checkpoint": short_path(result.checkpoint),
        "checkpoint SHA-256": result.checkpoint_sha256,
        "variables": result.variables,
        "weights": short_path(result.weights),
        "weights SHA-256": result.weights_sha256,
        "dataset": short_path(result.dataset),
        "image size": f"{height} x {width} (height x width)",
        "semantics": result.semantics,
        "aspect ratios": result.config["aspect_ratios"],
    }
    if result.published is not None:
        facts["published AP"] = f"{result.published.published_ap:.1f} ({result.published.reason})"
    facts["counted in the agreement AP"] = (
        f"{result.agreement.truths} detections of TensorFlow; {result.agreement.at_the_edge} at the end of a full list "
        "or at the score threshold count neither way"
    )
    return facts | {f"time, {name}": duration(value) for name, value in result.seconds.items() if math.isfinite(value)}
