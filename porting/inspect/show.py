"""What `inspect` prints for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from effdet_model.fit import listed
from porting.inspect.run import Inspection
from porting.inspect.value_statistics import Extreme, Statistics

_DIALECTS = {
    "tf1": "TensorFlow 1 checkpoint", "h5": "Keras .h5 weights", "object": "TensorFlow 2 checkpoint",
    "savedmodel": "TensorFlow SavedModel (its variables; the graph is read, never run)",
    "tflite": "TFLite model (its operators are read, never run)",
    "pth": "PyTorch .pth weights", "safetensors": "safetensors weights",
}  # fmt: skip
_KINDS = {"raw": "raw values", "ema": "moving averages", "weights": "weights"}

def inspection_summary(inspection: Inspection) -> RenderableType:
    """An inspection for a terminal: what it is, its values, what stands in the way, what to type next."""
    parts: list[RenderableType] = [_identity(inspection), _values(inspection)]
    if inspection.ignored:
        parts.append(_ignored(inspection))
    if inspection.unknown:
        parts.append(Text(f"{len(inspection.unknown)} unknown: {listed(inspection.unknown)}", style="red"))
    parts += [Text(f"note: {note}") for note in inspection.notes]
    parts += [Text(f"problem: {problem}", style="red") for problem in inspection.problems]
    commands = [("next: ", inspection.next_command)] if inspection.next_command else []
    commands += [("either: " if not place else "or: ", choice) for place, choice in enumerate(inspection.choices)]
    for word, command in commands:
        parts.append(Text.assemble(word, (command, "bold"), no_wrap=True, overflow="ignore"))
    return Group(*parts)


def _identity(found: Inspection) -> Table:
    table = Table(title=Text(str(found.path)), title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("found", overflow="fold")

    def row(what: str, value: str) -> None:
        table.add_row(what, Text(value))

    row("kind", _DIALECTS.get(found.dialect, found.dialect))
    for file in found.files:
        row("file", f"{file.name}  {file.size:,} bytes  sha256 {file.sha256}")
    same = [name for name in found.variants if name != found.variant]
    if found.variant:
        row("variant", found.variant + (f" (same shapes: {', '.join(same)})" if same else ""))
    elif same:
        row("variant", f"one of {', '.join(same)}, which have the same shapes")
    else:
        row("variant", f"none exactly; nearest {found.nearest}, {found.similarity:.0%} in common")
    if found.hparams:
        row("hparams", ", ".join(f"{key} = {value}" for key, value in found.hparams.items()))
    if found.heads:
        row("classes", f"{found.heads.num_classes}")
        row("anchors", f"{found.heads.anchors_per_location} per location")
    if found.averages:
        averages = found.averages
        counts = f" ({averages.present:,} of {averages.present + averages.absent:,} variables)"
        row("moving averages", averages.state + (counts if averages.state == "partial" else ""))
    source = (found.metadata or {}).get("source")
    if isinstance(source, dict):
        origin = source.get("url") or source.get("file")
        row("made from", f"{origin}  {source.get('variables')}  sha256 {source.get('sha256')}")
    return table


def _values(found: Inspection) -> Table:
    table = Table(title="values", title_justify="left")
    table.add_column("what")
    for kind in found.values:
        table.add_column(_KINDS.get(kind, kind), justify="right", overflow="fold")
    rows = [_statistics(statistics) for statistics in found.values.values()]
    for what in rows[0] if rows else ():
        table.add_row(what, *(Text(row[what]) for row in rows))
    return table


def _statistics(values: Statistics) -> dict[str, str]:
    return {
        "tensors": f"{values.tensors:,}",
        "parameters": f"{values.parameters:,}",
        "dtypes": ", ".join(f"{count:,} {dtype}" for dtype, count in values.dtypes.most_common()),
        "NaN": f"{sum(values.nan.values()):,}",
        "Inf": f"{sum(values.infinite.values()):,}",
        "negative variances": f"{sum(values.negative_variances.values()):,}",
        "dead batch norms": f"{len(values.dead_batch_norms):,} ({values.dead_channels:,} dead channels)",
        "smallest": _extreme(values.minimum),
        "largest": _extreme(values.maximum),
        "largest magnitude": _extreme(values.largest_abs),
    }


def _extreme(extreme: Extreme | None) -> str:
    return f"{extreme.value:.6g} in {extreme.name}" if extreme else "none"


def _ignored(found: Inspection) -> Table:
    table = Table(title="would be ignored", title_justify="left")
    table.add_column("tensors", justify="right")
    table.add_column("why")
    for reason, count in found.ignored.items():
        table.add_row(f"{count:,}", Text(reason))
    return table
