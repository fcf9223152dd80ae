"""What `evaluate` prints for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.evaluation.result import EvaluationResult

_PER_CLASS_SHOWN = 10


def measured_text(value: float) -> str:
    """A metric with four digits; pycocotools' -1 in words."""
    return f"{value:.4f}" if value >= 0 else "nothing to measure"


def print_evaluation(result: EvaluationResult, console: Console) -> None:
    """Metrics, the weakest and strongest classes, what was skipped, and the verdict where there is one."""
    height, width = result.image_size
    title = f"{result.variant} on {result.dataset}, {height} x {width}, {result.nms['name']}"
    if result.metrics:
        table = Table(title=title, title_justify="left")
        table.add_column("metric")
        table.add_column("value", justify="right")
        for name, value in result.metrics.values.items():
            table.add_row(name, measured_text(value))
        console.print(table)
        _print_per_class(result, console)
    else:
        console.print(Text(f"{title}: no annotations, no metrics"))
    for note in result.notes:
        console.print(Text(f"note: {note}"))
    if result.skipped:
        console.print(Text(f"skipped {len(result.skipped)} images:"))
        for image in result.skipped:
            console.print(Text(f"  {image.path}: {image.reason}"))
    if result.published:
        published = result.published
        verdict = ("PASSED" if published.passed else "MISSED") if published.judged else "not judged"
        console.print(
            Text(
                f"published AP {published.published_ap:.1f} ({published.family}), "
                f"measured {published.measured_ap:.2f}: {verdict}. {published.reason}"
            )
        )
    console.print(
        Text(
            f"{result.images} images ({result.resumed} from an earlier run), {result.detections} detections, "
            f"{result.images_per_second:.2f} images/s"
        )
    )
    if result.detections_file:
        console.print(Text(result.detections_file))


def _print_per_class(result: EvaluationResult, console: Console) -> None:
    assert result.metrics is not None
    ranked = sorted(result.metrics.per_class.items(), key=lambda item: -item[1])
    if not ranked:
        return
    table = Table(title="AP per class", title_justify="left")
    table.add_column("class")
    table.add_column("AP", justify="right")
    cut = len(ranked) > 2 * _PER_CLASS_SHOWN
    for name, value in ranked[:_PER_CLASS_SHOWN] if cut else ranked:
        table.add_row(Text(str(name)), measured_text(value))
    if cut:
        table.add_row(f"... {len(ranked) - 2 * _PER_CLASS_SHOWN} more", "")
        for name, value in ranked[-_PER_CLASS_SHOWN:]:
            table.add_row(Text(str(name)), measured_text(value))
    console.print(table)
