"""A proof of training as a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from porting.files import make_folder
from training.proof.result import KINDS, Compared, ProofResult
from verify.report import print_report, write_report
from verify.report.blocks import (
    Block,
    Column,
    Facts,
    KeyFigure,
    Note,
    Report,
    Row,
    Table,
    Verdict,
    duration,
    scientific,
)

if TYPE_CHECKING:
    from rich.console import Console

_WORST_SHOWN = 10


def proof_report(result: ProofResult) -> Report:
    """The report of a proof, for any medium."""
    height, width = result.image_size
    return Report(
        title=f"Training proof: {result.variant}",
        subtitle=f"{result.against} against PyTorch, recipe {result.recipe['name']}, {result.steps} steps of "
        f"{result.images} images at {height} x {width}, {result.dtype}",
        verdict=Verdict(result.passed, result.verdict),
        key_figures=tuple(_key_figures(result)),
        blocks=tuple(_blocks(result)),
    )


def write_proof(result: ProofResult, folder: Path) -> list[Path]:
    """Write `proof.json`, `proof.md` and `proof.html` into `folder`, which is made where it is missing.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    make_folder(folder, "report folder")
    data = folder / "proof.json"
    result.write_json(data)
    return [data, *write_report(proof_report(result), folder, "proof")]


def print_proof(result: ProofResult, console: Console) -> None:
    """Print the summary, the worst rows and the verdict; colour only on a terminal."""
    print_report(proof_report(result), console)


def _key_figures(result: ProofResult) -> Iterator[KeyFigure]:
    for kind in ("gradient", "parameter", "statistic", "average"):
        steps = [row.step for row in result.rows if row.kind == kind]
        worst = result.worst(kind, max(steps)) if steps else None
        if worst is not None:
            remark = f"after step {worst.step}; allowed {scientific(worst.difference.tolerance)}"
            yield KeyFigure(KINDS[kind].capitalize(), scientific(worst.difference.max_rel), remark)
    yield KeyFigure("Steps with clipped gradients", f"{result.clipped} of {result.steps}")
    yield KeyFigure("Time", duration(sum(result.seconds.values())))


def _blocks(result: ProofResult) -> Iterator[Block]:
    if result.cause:
        yield Note("Where it begins", result.cause, warning=True)
    if result.notes:
        yield Note("Notes", "What this proof does and does not see.", tuple(result.notes))
    yield _summary(result)
    columns = (
        Column("Kind", "text", essential=True), Column("Step", "number", essential=True),
        Column("Name", "name", essential=True), Column("Shape", "shape"),
        Column("Largest relative", "number", ".2e", essential=True,
               hint="Largest difference over the largest value of the reference."),
        Column("Allowed", "number", ".2e", essential=True),
        Column("TensorFlow's own", "number", ".2e", hint="How far TensorFlow's float32 is from its float64."),
        Column("Largest value", "number", ".3g"), Column("Note", "text"),
    )  # fmt: skip
    rows = [_row(row) for row in sorted(result.rows, key=lambda row: row.excess, reverse=True)]
    yield Table(f"Nearest to its limit, {min(len(rows), _WORST_SHOWN)} of {len(rows)}", columns,
                tuple(rows[:_WORST_SHOWN]), key="worst", media=frozenset(("terminal", "markdown")))  # fmt: skip
    yield Table("Everything compared", columns, tuple(rows), key="rows", filter_label="Filter names",
                media=frozenset(("html",)))  # fmt: skip
    losses = tuple(
        Row((step, theirs, own)) for step, (theirs, own) in enumerate(result.losses, start=1)
    )
    value = {"kind": "number", "digits": ".9g", "essential": True}
    yield Table(
        "Loss", (Column("Step", "number", essential=True), Column(result.against, **value),  # type: ignore[arg-type]
                 Column("PyTorch", **value)), losses, key="loss",  # type: ignore[arg-type]
    )  # fmt: skip
    yield Facts("Recipe", result.recipe, collapsed=True)
    yield Facts("Environment", result.environment, collapsed=True)


def _summary(result: ProofResult) -> Table:
    columns = (
        Column("Step", "number", essential=True), Column("What", "text", essential=True),
        Column("Compared", "number", essential=True), Column("Largest relative", "number", ".2e", essential=True),
        Column("Worst", "name", essential=True),
    )  # fmt: skip
    rows = []
    for step in range(1, result.steps + 1):
        for kind, name in KINDS.items():
            found = [row for row in result.rows if (row.kind, row.step) == (kind, step)]
            if found:
                worst = max(found, key=lambda row: row.excess)
                values = (step, name, len(found), max(row.difference.max_rel for row in found), worst.name)
                rows.append(Row(values, all(row.ok for row in found)))
    return Table("What was compared", columns, tuple(rows), key="summary")


def _row(row: Compared) -> Row:
    there = row.difference
    values = (
        KINDS[row.kind], row.step, row.name, there.shape, there.max_rel, there.tolerance, there.own_max_rel,
        there.reference_max, there.note,
    )  # fmt: skip
    return Row(values, row.ok)
