"""Reports on a terminal, with rich; colour only where the console is one."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from verify.report.blocks import Block, Facts, Note, Report, Table


def print_report(report: Report, console: Console, facts: bool = False) -> None:
    """Print tables and notes, then key figures, and the verdict last, where the eye is.

    Args:
        facts: print environment and other lists of names and values too.
    """
    console.print(Text(report.title, style="bold"))
    console.print(Text(report.subtitle, style="dim"))
    for block in report.shown_in("terminal"):
        if not isinstance(block, Facts) or facts:
            _print_block(block, console)
    console.print()
    console.print(_pairs((figure.name, _with_remark(figure.value, figure.remark)) for figure in report.key_figures))
    mark = Text.assemble((f"{report.verdict.word.upper()}  ", _style(report.verdict.ok) + " bold"))
    console.print(mark + Text(report.verdict.text), soft_wrap=not console.is_terminal)


def _print_block(block: Block, console: Console) -> None:
    console.print()
    if isinstance(block, Table):
        console.print(Text(block.title, style="bold"))
        console.print(_table(block))
    elif isinstance(block, Note):
        console.print(Text.assemble((f"{block.title}: ", "bold yellow" if block.warning else "bold"), block.text))
        for point in block.points:
            console.print(Text(f"  - {point}"))
        if block.next_step:
            console.print(Text(f"  Next: {block.next_step}"))
    elif isinstance(block, Facts):
        console.print(Text(block.title, style="bold"))
        console.print(_pairs(block.rows()))


def _table(table: Table) -> RichTable:
    drawn = RichTable(box=None, pad_edge=False, header_style="bold")
    for column in table.short_columns():
        right = column.numeric
        drawn.add_column(column.label, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in table.rows:
        *cells, last = [text for _, text in table.short_cells(row)]
        outcome = Text(last, style=_style(row.ok) if table.judged else "")
        drawn.add_row(*map(Text, cells), outcome)
    return drawn


def _pairs(rows: Iterable[tuple[str, str]]) -> RichTable:
    drawn = RichTable(box=None, pad_edge=False, show_header=False)
    drawn.add_column(no_wrap=True, style="dim")
    drawn.add_column(overflow="fold")
    for name, value in rows:
        drawn.add_row(Text(name), Text(value))
    return drawn


def _with_remark(value: str, remark: str) -> str:
    return f"{value} ({remark})" if remark else value


def _style(ok: bool | None) -> str:
    return {True: "green", False: "red", None: "default"}[ok]
