"""Reports: one description, drawn on a terminal, in Markdown and as a self-contained HTML page.

A check describes what it found with the blocks of `verify.report.blocks` and the plots of `verify.report.figures`:

    report = Report(
        title="Parity: d0",
        subtitle="TensorFlow against PyTorch, 100 images",
        verdict=Verdict(ok=True, text="Same detections: ..."),
        key_figures=(KeyFigure("Agreement AP", "1.000", ">= 0.999 wanted"),),
        blocks=(
            Table("Stages", columns, rows, key="stages"),
            Figure("Error per image", error_over_depth(points, depth="images"), key="images", alternative="..."),
            Pictures("Largest disagreement", (Picture(encoded, "..."),)),
            Facts("Environment", environment),
        ),
    )
    print_report(report, console)
    write_report(report, folder, "parity")  # parity.md and parity.html
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effdet_model.extras import needs
from porting.files import make_folder
from verify.report.blocks import Report

if TYPE_CHECKING:
    from rich.console import Console

    from verify.diff.result import DiffResult


def check_report(folder: Path) -> None:
    """Before any work: whether the reports can be made and written.

    Raises:
        InputError: the extra `report` is not installed, or the folder cannot be made.
    """
    with needs("report", f"--report {folder}"):
        import plotly  # noqa: F401

    import verify.report.html
    import verify.report.markdown  # noqa: F401

    make_folder(folder, "report folder")


def write_diff_report(result: DiffResult, folder: Path) -> list[Path]:
    """Write `diff.json`, `diff.md` and `diff.html` into `folder`, which is made where it is missing.

    Returns:
        The paths written, in this order. Each file appears whole or not at all.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    from verify.report.diff import diff_report

    make_folder(folder, "report folder")
    data = folder / "diff.json"
    result.write_json(data)
    return [data, *write_report(diff_report(result), folder, "diff")]


def write_report(report: Report, folder: Path, stem: str) -> list[Path]:
    """Write `STEM.md` and `STEM.html` into `folder`, which is made where it is missing; returns both paths."""
    from verify.report.html import write_html
    from verify.report.markdown import write_markdown

    make_folder(folder, "report folder")
    text, page = folder / f"{stem}.md", folder / f"{stem}.html"
    write_markdown(report, text)
    write_html(report, page)
    return [text, page]


def print_report(report: Report, console: Console) -> None:
    """Print notes, tables, key figures and the verdict; colour only on a terminal."""
    from verify.report.terminal import print_report as print_blocks

    print_blocks(report, console)


def print_diff(result: DiffResult, console: Console) -> None:
    """Print the worst layers, the likely cause, a summary and the verdict; colour only on a terminal."""
    from verify.report.diff import diff_report

    print_report(diff_report(result, with_figure=False), console)
