"""What the commands print for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mappings.layouts import LAYOUTS
from mappings.table import MappingTable
from porting.convert import Written

if TYPE_CHECKING:
    from porting.reverse import ReverseWritten


def conversion_summary(written: Written, notes: Iterable[str] = ()) -> RenderableType:
    """What was mapped, what was ignored and why, what was assumed, and where it went."""
    conversion = written.conversion
    table = Table(title=f"{conversion.config.name}: every tensor accounted for", title_justify="left")
    table.add_column("what")
    table.add_column("tensors", justify="right")
    table.add_column("how")
    for kind, count in conversion.table.counts().items():
        table.add_row(f"mapped: {kind}", f"{count:,}", Text(LAYOUTS[kind].meaning))
    table.add_section()
    for reason, count in conversion.account.ignored.items():
        table.add_row("ignored", f"{count:,}", Text(reason))
    values = "moving averages" if conversion.account.kind == "ema" else "raw values"
    parameters = sum(
        t.numel()
        for key, t in conversion.state_dict.items()
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    lines = [
        f"{len(conversion.account.consumed):,} TensorFlow variables ({values}) -> {len(conversion.state_dict):,} "
        f"PyTorch tensors, {parameters:,} parameters; read back, bit-identical",
        f"{written.path}  sha256 {written.sha256}",
    ]
    return Group(table, *(Text(f"note: {note}") for note in (*notes, *conversion.notes)), *map(Text, lines))


def reverse_summary(written: ReverseWritten) -> RenderableType:
    """What was written for TensorFlow, what was ignored and why, and the files' hashes."""
    lines = [f"note: {note}" for note in written.notes]
    lines.append(
        f"{len(written.consumed):,} PyTorch tensors -> {written.variables:,} TensorFlow variables of "
        f"{written.config.name} ({written.dialect}), {written.tensors:,} tensors in the file; read back, bit-identical"
    )
    lines += [f"ignored {count:,}: {reason}" for reason, count in written.ignored.items()]
    lines += [f"{written.output if written.dialect == 'h5' else written.output / name}  sha256 {digest}"
              for name, digest in written.files.items()]
    return Group(*map(Text, lines))


def conversion_json(written: Written, notes: Iterable[str] = ()) -> dict[str, Any]:
    """`conversion_summary` for machines."""
    conversion = written.conversion
    return {
        "output": str(written.path),
        "sha256": written.sha256,
        "variant": conversion.config.name,
        "variables": conversion.account.kind,
        "mapped": conversion.table.counts(),
        "tensorflow_variables": len(conversion.account.consumed),
        "ignored": dict(conversion.account.ignored),
        "notes": [*notes, *conversion.notes],
        "metadata": conversion.metadata,
    }


def mapping_rich_table(table: MappingTable) -> Table:
    """A mapping table for a terminal."""
    shown = Table(title=f"{table.variant}: {len(table.rows):,} tensors", title_justify="left")
    for column in ("PyTorch", "kind", "shape", "TensorFlow shape", "TensorFlow variables"):
        shown.add_column(column, overflow="fold")
    for row in table.rows:
        shown.add_row(
            row.pytorch_key,
            row.kind,
            "x".join(map(str, row.pytorch_shape)) or "scalar",
            "x".join(map(str, row.tensorflow_shape)) or "scalar",
            "\n".join(row.tensorflow_names) or "none (0)",
        )
    return shown


def rows_json(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Dataclass rows of a table as plain data."""
    return [dataclasses.asdict(row) for row in rows]
