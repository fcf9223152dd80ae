"""A parity run as a report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from porting.files import make_folder
from verify.evaluation.metrics import METRIC_NAMES
from verify.evaluation.published import AP_TOLERANCE
from verify.parity.matching import worst_first
from verify.parity.result import AGREEMENT_WANTED, ParityResult, StageDifference
from verify.parity.rounding import MULTIPLE
from verify.reference.configuration.config_check import shown
from verify.report import print_report, write_report
from verify.report.blocks import (
    Block,
    Column,
    Facts,
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
from verify.report.evidence import evidence_facts
from verify.report.parity_figures import parity_figures

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
    Column("Pairs", "number", essential=True, hint="Of the same class, sides and score within rounding."),
    _BOX,
    _SCORE,
    _DISAGREEMENT,
)


NOTHING = "nothing to measure"


def parity_report(result: ParityResult, with_figure: bool = True) -> Report:
    """The report of a parity run, for any medium.

    Args:
        with_figure: add the plot and pictures; only the HTML page shows them.
    """
    height, width = result.image_size
    return Report(
        title=f"Parity: {result.variant}",
        subtitle=f"TensorFlow against PyTorch, {len(result.images)} images at {height} x {width}, {result.nms['name']}",
        verdict=Verdict(result.passed, result.verdict, "inconclusive" if result.outcome == "inconclusive" else ""),
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
    make_folder(folder, "report folder")
    data = folder / "parity.json"
    result.write_json(data)
    return [data, *write_report(parity_report(result), folder, "parity")]


def print_parity(result: ParityResult, console: Console) -> None:
    """Print stages, metrics, the worst images, a summary and the verdict; colour only on a terminal."""
    print_report(parity_report(result, with_figure=False), console)


def _key_figures(result: ParityResult) -> Iterator[KeyFigure]:
    agreement = f"{result.agreement.ap:.4f}" if result.agreement.truths else NOTHING
    yield KeyFigure("Agreement AP", agreement, f"at least {AGREEMENT_WANTED} wanted")
    paired = result.detections - result.unmatched
    yield KeyFigure("Boxes with a partner", f"{paired} of {result.detections}", "of both frameworks; all wanted")
    strong = f"{result.strong_share:.2%} of {result.strong}" if result.strong else NOTHING
    yield KeyFigure("Strong boxes", strong, "score from 0.05 on, of both frameworks")
    if result.by_rounding:
        yield KeyFigure("Decided by rounding", str(result.by_rounding), "TensorFlow chooses the same")
    if result.tensorflow_metrics is not None and result.pytorch_metrics is not None:
        theirs, mine = result.tensorflow_metrics.ap, result.pytorch_metrics.ap
        if theirs < 0 or mine < 0:
            yield KeyFigure("AP", NOTHING, "no annotated box")
        else:
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
    elif result.doubts:
        first, *others = result.doubts
        yield Note("What could not be said", first, tuple(others), warning=True)
    yield _configuration(result)
    yield _stages(result)
    yield _metrics(result)
    if with_figure and result.images:
        yield _pictures(result)
        yield from parity_figures(result)
    yield _per_class(result)
    yield _worst(result)
    yield _images(result)
    if result.notes:
        yield Note("Notes", f"{len(result.notes)} to know of these numbers.", result.notes)
    if result.skipped:
        reasons = tuple(f"{image.path or image.id}: {image.reason}" for image in result.skipped[:20])
        yield Note("Skipped", f"{len(result.skipped)} images that could not be used.", reasons, warning=True)
    if result.command:
        yield Note("Do it again", result.command)
    yield Facts("What was compared", _compared(result))
    yield evidence_facts(result)
    yield Facts("Suppression", result.nms)
    yield Facts("Environment", result.environment)
    yield Facts("Model config", result.config, collapsed=True, media=frozenset(("html", "markdown")))


def _configuration(result: ParityResult) -> Table:
    columns = (
        Column("Field", "name", essential=True),
        Column("google/automl", "text", essential=True, hint="Its own facts, and what --hparams declare."),
        Column("Port", "text", essential=True),
        Column("What to do", "text"),
    )
    rows = tuple(
        Row((item.field, shown(item.reference), shown(item.port), "declared" if item.declared else item.remedy),
            item.declared)
        for item in result.config_differences
    )  # fmt: skip
    return Table(
        "Configurations that differ", columns, rows, key="configuration", passing_word="declared",
        failing_word="differs",
    )


def _next_step(result: ParityResult) -> str:
    if any(not item.declared for item in result.config_differences):
        return "Correct the configuration first, or declare with --hparams what the checkpoint was trained with."
    if result.born_in == "network":
        return "Run diff on the same files: it names the first layer that differs."
    if result.born_in is not None:
        return f"Look at {result.born_in}: it differs even on TensorFlow's own input."
    return "No stage differs on its own: look at the images with the largest disagreement."


def _stages(result: ParityResult) -> Table:
    columns = (
        Column("Stage", "name", essential=True),
        Column("Alone", "number", ".2e", essential=True, hint="Largest difference on TensorFlow's own input."),
        Column("Used", "number", ".1%", hint="The largest share of what is allowed."),
        Column("Unit", "text", essential=True),
        Column("Allowed", "text"),
        Column("Differing alone", "text", hint="Beyond what is allowed, or without a counterpart."),
        Column("Worst image alone", "name"),
        Column("From the file", "number", ".2e", essential=True, hint="Behind PyTorch's own earlier stages."),
        Column("Used from the file", "number", ".1%"),
        Column("Differing from the file", "text"),
        Column("Worst image from the file", "name"),
    )
    rows = tuple(
        Row(
            (
                stage.name, stage.alone.largest, stage.alone.used, stage.unit, stage.allowed,
                _count(stage.alone, stage.items), stage.alone.worst_image, stage.from_file.largest,
                stage.from_file.used, _count(stage.from_file, stage.items), stage.from_file.worst_image,
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
        Row((name, *_measured(theirs.values[name], mine.values[name])))
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


def _measured(theirs: float, mine: float) -> tuple[float | str, float | str, float | None]:
    """Both numbers and their difference; COCO's -1 is in words."""
    difference = mine - theirs if theirs >= 0 and mine >= 0 else None
    return (theirs if theirs >= 0 else NOTHING), (mine if mine >= 0 else NOTHING), difference


def _pictures(result: ParityResult) -> Pictures:
    by_id = {image.image_id: image for image in result.images}
    pictures = []
    for image_id, data in result.pictures:
        image = by_id[image_id]
        caption = f"{image.file_name}: {image.matched} pairs, disagreement {image.disagreement:.3g}"
        alternative = f"Detections of TensorFlow and of PyTorch, and the truth where it is known, on {image.file_name}"
        pictures.append(Picture(data, alternative, caption))
    title = "Largest disagreement" if result.unmatched else "Both frameworks' boxes"
    return Pictures(f"{title}, side by side", tuple(pictures), columns=1)


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
        f"{result.agreement.truths} detections of TensorFlow; {result.agreement.at_the_edge} at the end of a full "
        "list, at the score threshold or thinner than rounding count neither way"
    )
    own = result.rounding
    facts["TensorFlow's own rounding"] = (
        f"{own.noise:.2e} of a level's largest output, float32 against float64 on {own.images} images; PyTorch is at "
        f"most {own.ratio:.2g} times as far away, {MULTIPLE:g} times is allowed; {own.flips} of their detections are "
        "not shared by TensorFlow's own two runs"
    )
    return facts | {f"time, {name}": duration(value) for name, value in result.seconds.items() if math.isfinite(value)}
