"""A layer diff as a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

from verify.diff.result import DiffResult, LayerResult
from verify.reference.configuration.config_check import shown
from verify.report.blocks import (
    ABSENT,
    Block,
    Column,
    Facts,
    Figure,
    KeyFigure,
    Medium,
    Note,
    Report,
    Row,
    Table,
    Verdict,
    duration,
    scientific,
)
from verify.report.evidence import evidence_facts

WORST_SHOWN = 12
_SHORT: frozenset[Medium] = frozenset(("terminal", "markdown"))
_LAYER = Column("Layer", "name", essential=True)
_SHAPE = Column("Shape", "shape", essential=True, hint="Of the reference: batch, height, width, channels.")
_MAX_REL = Column("Max rel", "number", ".2e", essential=True,
                  hint="Largest absolute difference over the largest absolute reference value of the layer.")
_MAX_ABS = Column("Max abs", "number", ".2e", essential=True, hint="Largest absolute difference.")
_LAYER_COLUMNS = (
    Column("#", "number", hint="Place in the order of evaluation."),
    _LAYER,
    _SHAPE,
    _MAX_REL,
    _MAX_ABS,
    Column("Tolerance", "number", ".2e", hint="Largest relative difference allowed."),
    Column("TensorFlow's own", "number", ".2e", hint="Max rel of TensorFlow's float32 from its float64."),
    Column("RMS rel", "number", ".2e", hint="Root mean square of the difference over that of the reference."),
    Column("RMS allowed", "number", ".2e", hint="The largest RMS rel allowed."),
    Column("Mean abs", "number", ".2e", hint="Mean absolute difference."),
    Column("Cosine", "number", ".12f", hint="Cosine of the angle between both outputs, seen as vectors."),
    Column("Mean", "number", ".5g", hint="Mean of the reference."),
    Column("Largest", "number", ".5g", hint="Largest absolute reference value."),
    Column("Worst at", "index", hint="Where the largest difference is: batch, row, column, channel."),
    Column("Reference there", "number", ".9g", hint="TensorFlow's value at that place."),
    Column("Port there", "number", ".9g", hint="PyTorch's value at that place."),
    Column("Input", "text", hint="The input on which the layer is worst."),
    Column("Note", "text", hint="What else is wrong."),
)


def diff_report(result: DiffResult, with_figure: bool = True) -> Report:
    """The report of a layer diff, for any medium.

    Args:
        with_figure: add the plot; only the HTML page shows it, and making it imports plotly.
    """
    height, width = result.image_size
    mode = ", every layer on the reference's own input" if result.isolate else ""
    return Report(
        title=f"Layer diff: {result.variant}",
        subtitle=f"{result.reference} against PyTorch, {height} x {width}, {result.dtype}{mode}",
        verdict=Verdict(result.passed, result.verdict, "inconclusive" if result.inconclusive else ""),
        key_figures=tuple(_key_figures(result)),
        blocks=tuple(_blocks(result, with_figure)),
    )


def _key_figures(result: DiffResult) -> Iterator[KeyFigure]:
    layers = result.layers
    yield KeyFigure("Configuration", f"differs in {len(result.undeclared)}" if result.undeclared else "the same")
    if result.tensors is not None:
        left = len(result.tensors.not_compared)
        yield KeyFigure("Tensors", result.tensors.text, f"{left} counters have nothing to compare" if left else "")
    yield KeyFigure("Largest relative difference", scientific(result.max_rel), f"within {result.allowed}")
    yield KeyFigure("Largest absolute difference", scientific(result.max_abs))
    within = sum(layer.ok for layer in layers)
    yield KeyFigure("Layers within tolerance", f"{within} of {len(layers)}")
    yield KeyFigure("First divergent layer", result.first_divergent_layer or "none")
    if "total" in result.seconds:
        yield KeyFigure("Time", duration(result.seconds["total"]))


def _blocks(result: DiffResult, with_figure: bool) -> Iterator[Block]:
    if result.cause is not None:
        cause = result.cause
        yield Note("Likely cause", cause.summary, cause.evidence, cause.try_next, warning=True)
    if result.notes:
        yield Note("To know", result.notes[0], result.notes[1:])
    yield from _configuration(result)
    yield from _tensors(result)
    if with_figure and result.layers:
        yield _figure(result)
    yield _parts(result)
    yield _worst(result)
    yield _layers(result)
    yield _inputs(result)
    yield Facts("What was compared", _compared(result))
    yield evidence_facts(result)
    yield Facts("Environment", result.environment)
    yield Facts("Model config", result.config, collapsed=True, media=frozenset(("html", "markdown")))


def _configuration(result: DiffResult) -> Iterator[Block]:
    """The port's configuration against google/automl's facts and what the user declared."""
    if not result.config_differences:
        text = "Every field that changes what is computed means the same on both sides, and all anchors are equal."
        yield Note("Configuration", text)
        return
    columns = (
        Column("Field", "name", essential=True),
        Column("Reference", "name", essential=True, hint="google/automl's facts, the family's day, and --hparams."),
        Column("Port", "name", essential=True, hint="The weights' metadata."),
    )
    rows = tuple(
        Row((item.field, shown(item.reference), shown(item.port)), item.declared)
        for item in result.config_differences
    )
    title = "Configuration: what differs"
    yield Table(title, columns, rows, key="configuration", passing_word="declared", failing_word="differs")
    remedies = tuple(f"{item.field}: {item.remedy}" for item in result.undeclared if item.remedy)
    text = "A difference that the user declared with --hparams does not fail; any other does."
    yield Note("Configuration: what to do", text, remedies, warning=bool(result.undeclared))


def _tensors(result: DiffResult) -> Iterator[Block]:
    """Every value of the state_dict against the variable that TensorFlow used at the same place."""
    proof = result.tensors
    if proof is None:
        yield Note("Tensors", "Not compared: the port could not be run.", warning=True)
        return
    points = []
    if proof.not_compared:
        reasons = Counter(proof.not_compared.values())
        points += [f"{count} tensors not compared: each {reason}." for reason, count in reasons.items()]
    if proof.unused_variables:
        some = ", ".join(proof.unused_variables[:WORST_SHOWN])
        points.append(f"{len(proof.unused_variables)} variables of the checkpoint that TensorFlow did not use: {some}")
    text = f"{proof.text} to the bit, paired by what both networks did with them."
    yield Note("Tensors", text, tuple(points), warning=not proof.ok)
    columns = (
        Column("Tensor", "name", essential=True),
        Column("TensorFlow's variable", "name"),
        Column("At", "index", essential=True, hint="Of the largest difference, in PyTorch's axes."),
        Column("Reference there", "number", ".9g", essential=True),
        Column("Port there", "number", ".9g", essential=True),
        Column("Values", "number", hint="How many values differ."),
        Column("Why", "text"),
    )
    rows = tuple(
        Row((item.key or ABSENT, item.variable, item.index, item.reference, item.port, item.count, item.reason), False)
        for item in proof.differing
    )
    title = f"{len(rows)} tensors that differ"
    yield Table(f"First {min(len(rows), WORST_SHOWN)} of {title}", columns, rows[:WORST_SHOWN], key="tensors-first",
                failing_word="differs", media=_SHORT)  # fmt: skip
    yield Table(title, columns, rows, key="tensors", filter_label="Filter tensors", failing_word="differs",
                media=frozenset(("html",)))  # fmt: skip


def _figure(result: DiffResult) -> Figure:
    from verify.report.figures import Point, error_over_depth

    points = [
        Point(layer.name, part(layer.name), layer.difference.max_rel, layer.difference.tolerance, _hover(layer))
        for layer in result.layers
    ]
    return Figure(
        "Error over depth",
        error_over_depth(points, result.first_divergent_layer),
        key="depth",
        alternative="Largest relative difference of every layer in the order of evaluation, on a logarithmic axis, "
        "with the tolerance as a dashed line. The table of layers holds the same numbers.",
        caption="Hover for values; click a point to see its row in the table; click a name in the legend to hide "
        "a part. Differences of exactly 0 stand at the foot, those that are not finite at the top. With the "
        "keyboard: arrow keys go from layer to layer, Enter shows the row.",
        rows_of="layers",
    )


def _hover(layer: LayerResult) -> tuple[str, ...]:
    there = layer.difference
    lines = [
        f"max rel {scientific(there.max_rel)}",
        f"max abs {scientific(there.max_abs)}",
        f"shape   {_SHAPE.text(there.shape)}",
        f"at      [{', '.join(str(position) for position in there.worst_index)}]",
        f"TensorFlow {there.reference_value:.9g}",
        f"PyTorch    {there.port_value:.9g}",
    ]
    return (*lines, there.note) if there.note else tuple(lines)


def _parts(result: DiffResult) -> Table:
    groups: dict[str, list[LayerResult]] = {}
    for layer in result.layers:
        groups.setdefault(part(layer.name), []).append(layer)
    columns = (
        Column("Part", "name", essential=True),
        Column("Layers", "number", essential=True),
        _MAX_REL,
        _MAX_ABS,
        Column("Worst layer", "name", essential=True),
    )
    rows = []
    for name, layers in groups.items():
        worst = max(layers, key=_badness)
        max_abs = max(layer.difference.max_abs for layer in layers)
        ok = all(layer.ok for layer in layers)
        rows.append(Row((name, len(layers), worst.difference.max_rel, max_abs, worst.name), ok))
    return Table("Parts", columns, tuple(rows), key="parts")


def _worst(result: DiffResult) -> Table:
    worst = sorted(result.layers, key=_badness, reverse=True)[:WORST_SHOWN]
    columns = (_LAYER, _SHAPE, _MAX_REL, _MAX_ABS)
    rows = tuple(
        Row((layer.name, layer.difference.shape, layer.difference.max_rel, layer.difference.max_abs), layer.ok)
        for layer in worst
    )
    title = f"Worst {len(rows)} of {len(result.layers)} layers"
    return Table(title, columns, rows, key="worst", media=frozenset(("terminal", "markdown")))


def _layers(result: DiffResult) -> Table:
    rows = []
    for place, layer in enumerate(result.layers):
        there = layer.difference
        values = (
            place, layer.name, there.shape, there.max_rel, there.max_abs, there.tolerance,
            there.own_max_rel, there.rms_rel, there.rms_tolerance, there.mean_abs, there.cosine, there.mean,
            there.reference_max, there.worst_index, there.reference_value,
            there.port_value, layer.input_name, there.note,
        )
        rows.append(Row(values, layer.ok))
    return Table(
        f"All {len(rows)} layers", _LAYER_COLUMNS, tuple(rows), key="layers", filter_label="Filter layers",
        fold=True, media=frozenset(("html", "markdown")),
    )


def _inputs(result: DiffResult) -> Table:
    columns = (
        Column("Input", "name", essential=True),
        Column("Kind", "text"),
        _MAX_REL,
        _MAX_ABS,
        Column("Worst layer", "name", essential=True),
        Column("First divergent layer", "name"),
        Column("SHA-256", "name", hint="Of the network's input, float32 [1, 3, H, W] in C order."),
    )
    rows = tuple(
        Row((item.name, item.kind, item.max_rel, item.max_abs, item.worst_layer, item.first_divergent_layer,
             item.sha256), item.first_divergent_layer is None)
        for item in result.inputs
    )
    return Table("Inputs", columns, rows, key="inputs")


def _compared(result: DiffResult) -> dict[str, object]:
    height, width = result.image_size
    facts: dict[str, object] = {
        "variant": result.variant,
        "checkpoint": short_path(result.source),
        "variables": result.variables,
        "weights": short_path(result.weights),
        "reference": result.reference,
        "image size": f"{height} x {width} (height x width)",
        "dtype": result.dtype,
        "isolated layers": result.isolate,
        "layers held to": result.allowed if result.tolerance is None else f"{result.tolerance:g} relative",
    }
    return facts | {f"time, {name}": duration(seconds) for name, seconds in result.seconds.items()}


def short_path(name: str) -> str:
    """A file as a reader of a published report needs it: an absolute path loses its folders but the last.

    `diff.json` keeps the whole path; URLs and relative paths stay as they are.
    """
    path = PurePath(name)
    return str(PurePath("…", *path.parts[-2:])) if path.is_absolute() and len(path.parts) > 3 else name


def part(name: str) -> str:
    """The part of the model that a layer belongs to: backbone, fpn, class_net or box_net."""
    return name.partition(".")[0]


def _badness(layer: LayerResult) -> float:
    """For sorting: how many times what is allowed; what is not a number is worst."""
    return layer.difference.excess
