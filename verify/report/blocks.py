"""What a report is made of, as plain data; terminal, Markdown and HTML each draw it in their own way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from effdet_model.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

Medium = Literal["terminal", "markdown", "html"]
EVERYWHERE: frozenset[Medium] = frozenset(("terminal", "markdown", "html"))
ABSENT = "–"


@dataclass(frozen=True)
class Verdict:
    """The answer, on top of every report.

    Attributes:
        ok: whether the check passed.
        text: one sentence.
        label: one word beside the mark; "passed" or "failed" where it is empty.
    """

    ok: bool
    text: str
    label: str = ""

    @property
    def word(self) -> str:
        """`label`, or what `ok` says."""
        return self.label or ("passed" if self.ok else "failed")


@dataclass(frozen=True)
class KeyFigure:
    """One number that a reader looks for first: its name, its value as text, and a remark such as the limit."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Block:
    """A part of a report. `title` is its heading; `media` says where it is drawn."""

    title: str
    media: frozenset[Medium] = field(default=EVERYWHERE, kw_only=True)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw; then its heading is left out too."""
        return False


@dataclass(frozen=True)
class Note(Block):
    """Something to read: a headline, a list of points, and what to do next."""

    text: str
    points: tuple[str, ...] = ()
    next_step: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Facts(Block):
    """Names and values: versions, seeds, checksums. A mapping as a value is flattened with dots.

    Attributes:
        collapsed: HTML and Markdown show it only on request.
    """

    values: Mapping[str, Any]
    collapsed: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is no value."""
        return not self.values

    def rows(self) -> list[tuple[str, str]]:
        """Every name with its value as text, in the given order."""
        return _flat(self.values)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        label: heading.
        kind: how values are written and sorted: "text"; "name" (text in a fixed-width face); "number" (with
            `digits`, a format such as ".2e"); "shape" (a tuple of sizes, sorted by their product); "index" (a
            tuple, sorted by its first entries).
        essential: terminal and Markdown show it too.
        hint: what it means, one sentence.
    """

    label: str
    kind: Literal["text", "name", "number", "shape", "index"] = "text"
    digits: str = ""
    essential: bool = False
    hint: str = ""

    def text(self, value: Any) -> str:
        """`value` as a reader sees it."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ABSENT
        if self.kind == "shape":
            return "×".join(str(size) for size in value) or "scalar"
        if self.kind == "index":
            return ", ".join(str(position) for position in value)
        if self.kind == "number" and not isinstance(value, str):
            return _number(value, self.digits)
        return str(value)

    def sort_key(self, value: Any) -> str:
        """Text that the page sorts by: a number for numeric kinds, empty where there is no value."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if self.kind == "shape":
            return str(math.prod(value))
        if self.kind == "number":
            if isinstance(value, str):  # words in place of a number
                return ""
            return str(float(value)).replace("inf", "Infinity")
        return self.text(value)

    @property
    def numeric(self) -> bool:
        """Whether the page sorts it as numbers."""
        return self.kind in ("number", "shape")


@dataclass(frozen=True)
class Row:
    """One row: a value for every column, and whether it passed; None where there is nothing to pass."""

    values: tuple[Any, ...]
    ok: bool | None = None


@dataclass(frozen=True)
class Table(Block):
    """Rows under columns; the HTML page filters and sorts them.

    Attributes:
        rows: in the order first shown.
        key: short name, unique in the report; also the anchor in the page.
        filter_label: what the page's text filter looks for, e.g. "Filter layers"; empty for no controls.
        fold: Markdown folds the table away under its title.
        failing_word: what a row that did not pass is called, e.g. "beyond".
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    key: str
    filter_label: str = ""
    fold: bool = False
    passing_word: str = "ok"
    failing_word: str = "beyond"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"table {self.key}: {len(self.columns)} columns, {len(row.values)} values in {row}")

    @property
    def empty(self) -> bool:
        """Whether there is no row."""
        return not self.rows

    @property
    def judged(self) -> bool:
        """Whether rows pass or fail."""
        return any(row.ok is not None for row in self.rows)

    @property
    def failing(self) -> int:
        """How many rows did not pass."""
        return sum(row.ok is False for row in self.rows)

    def word(self, row: Row) -> str:
        """What to call a row's outcome."""
        return ABSENT if row.ok is None else self.passing_word if row.ok else self.failing_word

    def short_columns(self) -> list[Column]:
        """The columns that terminal and Markdown show: the essential ones and, where rows are judged, the outcome."""
        outcome = [Column("Result")] if self.judged else []
        return [column for column in self.columns if column.essential] + outcome

    def short_cells(self, row: Row) -> list[tuple[Column, str]]:
        """`short_columns`, each with the row's text."""
        pairs = zip(self.columns, row.values, strict=True)
        cells = [(column, column.text(value)) for column, value in pairs if column.essential]
        return cells + [(Column("Result"), self.word(row))] * self.judged


@dataclass(frozen=True)
class Figure(Block):
    """An interactive plot; HTML only.

    Attributes:
        figure: drawn by plotly. Colours may be the page's own, `var(--series-1)` and others of `figures.py`;
            they follow the reader's light or dark scheme.
        key: short name, unique in the report.
        alternative: what the plot shows, for those who don't see it.
        caption: below the plot.
        rows_of: `key` of a table; a click on a point shows the row whose number is the point's `customdata[0]`.
    """

    figure: go.Figure
    key: str
    alternative: str
    caption: str = ""
    rows_of: str = ""
    height: int = 440
    media: frozenset[Medium] = field(default=frozenset(("html",)), kw_only=True)


@dataclass(frozen=True)
class Picture:
    """An image that the page carries inside: encoded bytes (PNG, JPEG, WebP or GIF), alternative text, caption."""

    data: bytes
    alternative: str
    caption: str = ""

    @property
    def media_type(self) -> str:
        """By the file's first bytes.

        Raises:
            InputError: not a format that browsers show.
        """
        signatures = {b"\x89PNG\r\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
        for start, media_type in signatures.items():
            if self.data.startswith(start):
                return media_type
        if self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP":
            return "image/webp"
        raise InputError(
            f"picture {self.caption or self.alternative!r}: expected PNG, JPEG, WebP or GIF, found bytes that "
            f"start with {self.data[:8]!r}; encode it as one of these."
        )


@dataclass(frozen=True)
class Pictures(Block):
    """A grid of pictures; HTML only. `columns` pictures stand side by side where there is room."""

    pictures: tuple[Picture, ...]
    columns: int = 2
    media: frozenset[Medium] = field(default=frozenset(("html",)), kw_only=True)

    @property
    def empty(self) -> bool:
        """Whether there is no picture."""
        return not self.pictures


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: e.g. "Layer diff: d0".
        subtitle: what was compared with what.
        key_figures: below the verdict.
    """

    title: str
    subtitle: str
    verdict: Verdict
    key_figures: tuple[KeyFigure, ...]
    blocks: tuple[Block, ...]

    def shown_in(self, medium: Medium) -> list[Block]:
        """The blocks that a medium draws, in order, empty ones left out."""
        return [block for block in self.blocks if medium in block.media and not block.empty]


def scientific(value: float) -> str:
    """A difference as text: `3.1e-12`, `0`, `not finite`."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2e}" if value else "0"


def duration(seconds: float) -> str:
    """`0.42 s`, `1 min 5 s`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s"


def _number(value: float, digits: str) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if digits.endswith("e") and value == 0:
        return "0"
    return format(value, digits)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows.extend(_flat(value, f"{prefix}{name}."))
        else:
            rows.append((f"{prefix}{name}", _fact(value)))
    return rows


def _fact(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_fact(item) for item in value) or ABSENT
    if isinstance(value, Mapping):
        return ABSENT
    return str(value)
