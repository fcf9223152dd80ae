"""An evaluation as a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from porting.files import make_folder
from verify.evaluation.findings.analysis import BACKGROUND, MATCH_IOU, SCORE_EDGES, SIZES, Analysis
from verify.evaluation.published import AP_TOLERANCE
from verify.evaluation.result import EvaluationResult
from verify.evaluation.show import measured_text
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
from verify.report.diff import short_path

NOTHING = "nothing to measure"
_CONFUSIONS_SHOWN = 12
_MEANINGS = {
    "AP": "IoU 0.50:0.95, all sizes",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, below 32² pixels",
    "APm": "medium objects, 32² to 96² pixels",
    "APl": "large objects, above 96² pixels",
    "ARmax1": "recall with 1 detection per image",
    "ARmax10": "recall with 10 detections per image",
    "ARmax100": "recall with 100 detections per image",
    "ARs": "recall of small objects",
    "ARm": "recall of medium objects",
    "ARl": "recall of large objects",
}
_PICTURES = {
    "worst": "Worst images: truth left, detections right",
    "best": "Best images: truth left, detections right",
    "found": "Images with most detections",
}
_COLOURS = "Green: found with its class. Orange: missed. Red: no object, or another class. Grey: a crowd, not counted."


def evaluation_report(result: EvaluationResult, with_figures: bool = True) -> Report:
    """The report of an evaluation, for any medium.

    Args:
        with_figures: add plots and pictures; only the HTML page shows them.
    """
    height, width = result.image_size
    return Report(
        title=f"Evaluation: {result.variant}",
        subtitle=f"{short_path(result.dataset)}, {result.images} images at {height} x {width}, {result.nms['name']}",
        verdict=_verdict(result),
        key_figures=tuple(_key_figures(result)),
        blocks=tuple(_blocks(result, with_figures)),
    )


def write_evaluation_report(result: EvaluationResult, folder: Path) -> list[Path]:
    """Write `evaluate.json`, `evaluate.md` and `evaluate.html` into `folder`, which is made where it is missing.

    Returns:
        The paths written, in this order. Each file appears whole or not at all.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    make_folder(folder, "report folder")
    data = folder / "evaluate.json"
    result.write_json(data, with_report=True)
    return [data, *write_report(evaluation_report(result), folder, "evaluate")]


def _verdict(result: EvaluationResult) -> Verdict:
    published = result.published
    if published is not None and published.judged:
        word = "equals" if published.passed else "misses"
        text = (
            f"AP {published.measured_ap:.2f} {word} the published {published.published_ap:.1f} "
            f"({published.difference:+.2f}, {AP_TOLERANCE} allowed)."
        )
        return Verdict(published.passed, text)
    if result.metrics is None:
        return Verdict(True, f"{result.detections} detections; no annotations, so no metrics.", "detected")
    ap = f"AP {100 * result.metrics.ap:.2f}" if result.metrics.ap >= 0 else f"AP: {NOTHING}"
    text = f"{ap} on {result.images} images."
    if published is not None:
        text += f" Published: {published.published_ap:.1f}, {published.reason}."
    return Verdict(True, text, "measured")


def _key_figures(result: EvaluationResult) -> Iterator[KeyFigure]:
    if result.metrics is not None:
        for name, remark in (("AP", "IoU 0.50:0.95"), ("AP50", ""), ("AP75", ""), ("ARmax100", "recall, 100 boxes")):
            yield KeyFigure(name, measured_text(result.metrics.values[name]), remark)
    if result.analysis is not None and result.analysis.point is not None:
        point = result.analysis.point
        yield KeyFigure("Best F1", f"{point.f1:.3f}", f"at score {point.score:.2f}, IoU {MATCH_IOU}")
    if result.metrics is None:
        yield KeyFigure("Detections", str(result.detections), "with a score above 0")
    yield KeyFigure("Speed", f"{result.images_per_second:.1f}", "images per second")


def _blocks(result: EvaluationResult, with_figures: bool) -> Iterator[Block]:
    if result.notes:
        yield Note("Notes", f"{len(result.notes)} to know of these numbers.", result.notes)
    if result.skipped:
        reasons = tuple(f"{image.path or image.id}: {image.reason}" for image in result.skipped[:20])
        more = f" The first {len(reasons)}:" if len(result.skipped) > len(reasons) else ""
        yield Note("Skipped", f"{len(result.skipped)} images could not be used.{more}", reasons, warning=True)
    yield _metrics(result)
    if with_figures:
        yield from _metric_figures(result)
    yield _classes(result)
    if result.analysis is not None:
        yield from _analysis(result.analysis, with_figures)
    if with_figures:
        yield from _pictures(result)
    yield _images(result)
    yield Facts("How to reproduce", {"command": result.command} | _inputs(result))
    yield Facts("Settings", dict(result.options) | {"processes": result.processes, "resumed images": result.resumed})
    yield Facts("Suppression", result.nms)
    yield Facts("Environment", {"tool": result.tool, **result.environment}, collapsed=True)
    yield Facts("Model config", result.config, collapsed=True, media=frozenset(("html", "markdown")))


def _metrics(result: EvaluationResult) -> Table:
    columns = (
        Column("Metric", "name", essential=True),
        Column("Value", "number", ".4f", essential=True),
        Column("Of", "text", essential=True),
    )
    values = result.metrics.values if result.metrics else {}
    rows = tuple(Row((name, _measured(value), _MEANINGS[name])) for name, value in values.items())
    return Table("COCO metrics", columns, rows, key="metrics")


def _metric_figures(result: EvaluationResult) -> Iterator[Figure]:
    from verify.report.evaluation_figures import bars_height, horizontal_bars, precision_recall

    if result.metrics is None:
        return
    if result.metrics.curves is not None:
        yield Figure(
            "Precision over recall",
            precision_recall(result.metrics.curves),
            key="curves",
            alternative="Precision over recall, mean over the classes, at IoU 0.50, 0.75, 0.90 and over all ten IoUs.",
            caption="As pycocotools interpolates it, all sizes, 100 detections per image. The area below a line is AP.",
        )
    measured = {name: value for name, value in result.metrics.per_class.items() if value >= 0}
    ranked = dict(sorted(measured.items(), key=lambda item: -item[1]))
    if ranked:
        yield Figure(
            "AP per class", horizontal_bars(ranked, "AP at IoU 0.50:0.95"), key="class-bars",
            alternative="AP of every class with objects, the highest first. The table of classes has the numbers.",
            height=bars_height(len(ranked)),
        )  # fmt: skip


def _classes(result: EvaluationResult) -> Table:
    columns = (
        Column("Class", "name", essential=True),
        Column("Objects", "number", essential=True, hint="Crowds left out."),
        Column("AP", "number", ".4f", essential=True, hint="IoU 0.50:0.95."),
        Column("AP50", "number", ".4f"),
        Column("AP75", "number", ".4f"),
        Column("AR", "number", ".4f", hint="With 100 detections per image."),
        Column("Precision", "number", ".3f", hint="At the score with the best F1, IoU 0.5."),
        Column("Recall", "number", ".3f", hint="At the score with the best F1, IoU 0.5."),
    )
    counts = result.analysis.classes if result.analysis else {}
    rows = []
    for name, found in (result.metrics.classes if result.metrics else {}).items():
        one = counts.get(name)
        detected = one.hits + one.false if one else 0
        precision = one.hits / detected if one and detected else None
        recall = one.hits / one.truths if one and one.truths else None
        ap, ap50, ap75, ar = (_measured(value) for value in (found.ap, found.ap50, found.ap75, found.ar100))
        rows.append(Row((name, one.truths if one else 0, ap, ap50, ap75, ar, precision, recall)))
    rows.sort(key=lambda row: -row.values[2] if isinstance(row.values[2], float) else 1)
    return Table("Every class", columns, tuple(rows), key="classes", filter_label="Filter classes", fold=True)


def _analysis(analysis: Analysis, with_figures: bool) -> Iterator[Block]:
    yield _sizes(analysis)
    point = analysis.point
    if point is None:
        return
    at = f"score at least {point.score:.3f}, IoU at least {MATCH_IOU}"
    if with_figures:
        from verify.report.evaluation_figures import confusion_matrix, matrix_height, score_histogram

        yield Figure(
            "Confusion matrix", confusion_matrix(analysis.labels, analysis.confusion), key="confusion",
            alternative="How many objects of each class were detected as which class. The table below names the most "
            "frequent confusions.",
            caption=f"Detections with {at}: the best F1 over all classes. Last row: detections of no object. Last "
            "column: objects that nothing found. The colour is the share of the row.",
            height=matrix_height(len(analysis.labels)),
        )  # fmt: skip
        yield _confusions(analysis, at)
        yield Figure(
            "Scores", score_histogram(SCORE_EDGES, analysis.hit_scores, analysis.other_scores, point.score),
            key="scores",
            alternative="Number of detections by score: those of an object of their class, and all others.",
            caption=f"IoU at least {MATCH_IOU}; logarithmic. Precision {point.precision:.3f} and recall "
            f"{point.recall:.3f} at the dashed line.",
            height=320,
        )  # fmt: skip
    else:
        yield _confusions(analysis, at)


def _sizes(analysis: Analysis) -> Table:
    columns = (
        Column("Size", "name", essential=True),
        Column("Area", "text", essential=True),
        Column("Objects", "number", essential=True),
        Column("Found", "number", essential=True, hint="With the right class, at the score with the best F1, IoU 0.5."),
        Column("Share found", "number", ".1%", essential=True),
    )
    ranges = dict(zip(SIZES, ("below 32² pixels", "32² to 96² pixels", "from 96² pixels on"), strict=True))
    rows = tuple(
        Row((name, ranges[name], truths, hits, hits / truths if truths else NOTHING))
        for name, (truths, hits) in analysis.sizes.items()
    )
    return Table("By size", columns, rows, key="sizes")


def _confusions(analysis: Analysis, at: str) -> Table:
    columns = (
        Column("Truth", "name", essential=True),
        Column("Detected as", "text", essential=True),
        Column("Count", "number", essential=True),
        Column("Share of the truth", "number", ".1%", essential=True),
    )
    pairs = [
        (truth, found, count, count / sum(analysis.confusion[row]))
        for row, truth in enumerate(analysis.labels)
        for column, found in enumerate(analysis.labels)
        if row != column and truth != BACKGROUND and (count := analysis.confusion[row][column])
    ]
    pairs.sort(key=lambda pair: -pair[2])
    named = (
        (truth, "nothing" if found == BACKGROUND else found, count, share)
        for truth, found, count, share in pairs[:_CONFUSIONS_SHOWN]
    )
    return Table(f"Most frequent errors ({at})", columns, tuple(map(Row, named)), key="errors", fold=True)


def _pictures(result: EvaluationResult) -> Iterator[Pictures | Note]:
    for kind, title in _PICTURES.items():
        chosen = tuple(
            Picture(example.jpeg, f"{title}: {example.file_name}", example.caption)
            for example in result.examples
            if example.kind == kind
        )
        if chosen and kind != "found" and kind == result.examples[0].kind:
            yield Note("Examples", _COLOURS, media=frozenset(("html",)))
        yield Pictures(title, chosen, columns=2)


def _images(result: EvaluationResult) -> Table:
    columns = (
        Column("Image", "name"),
        Column("Id", "number", hint="COCO image id."),
        Column("Objects", "number", hint="Crowds left out."),
        Column("Right", "number", hint="Found with their class."),
        Column("Wrong", "number", hint="Detections of no object, or of another class."),
        Column("Missed", "number"),
        Column("F1", "number", ".3f", hint="At the score that is best over all images."),
    )
    names = result.image_names
    rows = tuple(
        Row((names.get(one.image_id, ""), one.image_id, one.truths, one.hits, one.false, one.missed, one.f1))
        for one in (result.analysis.images if result.analysis else ())
    )
    return Table(
        f"All {len(rows)} images", columns, rows, key="images", filter_label="Filter images", fold=True,
        media=frozenset(("html",)),
    )  # fmt: skip


def _inputs(result: EvaluationResult) -> dict[str, object]:
    return {
        "weights": short_path(result.weights),
        "weights SHA-256": result.weights_sha256,
        "configuration SHA-256": result.config_sha256,
        "dataset": short_path(result.dataset),
        "annotations SHA-256": result.annotations_sha256,
        "images SHA-256": result.images_sha256,
        "aspect ratios": result.aspect_ratios,
        "evaluator": result.metrics.evaluator if result.metrics else None,
        "detections": short_path(result.detections_file) if result.detections_file else None,
    }


def _measured(value: float) -> float | str:
    return value if value >= 0 else NOTHING
