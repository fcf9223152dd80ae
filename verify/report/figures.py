"""Plots of reports. Colours are names of the page's palette, so that they follow light and dark schemes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effdet_model.extras import needs

if TYPE_CHECKING:
    import plotly.graph_objects as go

SERIES = ("var(--series-1)", "var(--series-2)", "var(--series-3)", "var(--series-4)", "var(--series-5)")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "hexagon")
TEXT, MUTED, GRID, BACKGROUND = "var(--text)", "var(--muted)", "var(--grid)", "var(--surface)"
GOOD, BAD = "var(--good)", "var(--bad)"


@dataclass(frozen=True)
class Point:
    """One thing measured, in order: its name, the part it belongs to, its error, its limit, and lines to hover."""

    name: str
    part: str
    error: float
    tolerance: float
    hover: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.tolerance


def base_figure(x_title: str, y_title: str) -> go.Figure:
    """An empty figure in the reports' style."""
    with needs("report", "plots of a report"):
        import plotly.graph_objects as go

    axis = {
        "gridcolor": GRID, "linecolor": GRID, "zeroline": False, "tickcolor": GRID, "automargin": True,
        "tickfont": {"color": MUTED, "size": 12}, "showline": True, "ticks": "outside",
    }
    figure = go.Figure(layout={"template": "none"})
    figure.update_layout(
        paper_bgcolor=BACKGROUND, plot_bgcolor=BACKGROUND,
        font={"color": TEXT, "size": 13, "family": "system-ui, sans-serif"},
        margin={"l": 8, "r": 12, "t": 44, "b": 8}, hovermode="closest",
        hoverlabel={
            "bgcolor": BACKGROUND, "bordercolor": MUTED, "align": "left",
            "font": {"color": TEXT, "size": 12, "family": "ui-monospace, monospace"},
        },
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        xaxis={**axis, "title": {"text": x_title, "standoff": 8, "font": {"size": 13}}, "showgrid": False},
        yaxis={**axis, "title": {"text": y_title, "standoff": 12, "font": {"size": 13}}},
        uirevision="keep",
    )
    return figure


def error_over_depth(
    points: Sequence[Point], first_beyond: str | None = None, unit: str = "largest relative difference",
    depth: str = "layers in the order of evaluation",
) -> go.Figure:
    """Errors on a log axis in the order of evaluation, coloured by part, with the tolerance as a dashed line.

    An error of 0 is drawn at the foot of the plot and one that is not finite at its top; hovering tells.

    Args:
        points: in the order of evaluation; a point's place is its `customdata[0]`.
        first_beyond: name of the point to mark with an arrow, "first beyond".
    """
    figure = base_figure(depth, unit)
    low, high = _range(points)
    parts = list(dict.fromkeys(point.part for point in points))
    for number, part in enumerate(parts):
        chosen = [(place, point) for place, point in enumerate(points) if point.part == part]
        figure.add_scatter(
            name=escape(part), mode="lines+markers",
            x=[place for place, _ in chosen],
            y=[_drawn(point.error, low, high) for _, point in chosen],
            customdata=[[place] for place, _ in chosen],
            text=[_hover(point) for _, point in chosen], hovertemplate="%{text}<extra></extra>",
            line={"color": SERIES[number % len(SERIES)], "width": 1.2},
            marker=_markers(number, [point.ok for _, point in chosen]),
        )
    figure.add_scatter(
        name="tolerance", mode="lines", x=list(range(len(points))), y=[point.tolerance for point in points],
        line={"color": BAD, "width": 1.5, "dash": "dash", "shape": "hvh"},
        hovertemplate="tolerance %{y:.2g}<extra></extra>",
    )
    figure.update_yaxes(type="log", exponentformat="power", dtick=_decades(low, high),
                        range=[math.log10(low) - 0.3, math.log10(high) + 0.5])
    figure.update_xaxes(range=[-0.02 * len(points) - 0.5, 1.02 * len(points) - 0.5])
    names = [point.name for point in points]
    if first_beyond in names:
        _mark(figure, names.index(first_beyond), points, low, high)
    return figure


def scatter_against(
    reference: Sequence[float], port: Sequence[float], names: Sequence[str], x_title: str, y_title: str
) -> go.Figure:
    """The port's value over the reference's, with the diagonal where both are equal."""
    figure = base_figure(x_title, y_title)
    finite = [value for value in (*reference, *port) if math.isfinite(value)] or [0.0, 1.0]
    ends = [min(finite), max(finite)]
    figure.add_scatter(name="equal", mode="lines", x=ends, y=ends, hoverinfo="skip",
                       line={"color": MUTED, "width": 1, "dash": "dash"})
    figure.add_scatter(
        name="measured", mode="markers", x=list(reference), y=list(port),
        customdata=[[place] for place in range(len(names))],
        text=[escape(name) for name in names], hovertemplate="%{text}<br>%{x} → %{y}<extra></extra>",
        marker={"color": SERIES[0], "size": 6},
    )
    return figure


def escape(text: str) -> str:
    """Text as plotly shows it literally: it reads a little HTML of its own in labels and hovers."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markers(number: int, passed: Sequence[bool]) -> dict[str, Any]:
    color = SERIES[number % len(SERIES)]
    return {
        "color": color,
        "size": [6 if ok else 8 for ok in passed],
        "symbol": [SYMBOLS[number % len(SYMBOLS)]] * len(passed),
        "line": {"color": [color if ok else BAD for ok in passed], "width": [0 if ok else 1.5 for ok in passed]},
        "opacity": 1,
    }


def _hover(point: Point) -> str:
    state = "within tolerance" if point.ok else "beyond tolerance"
    lines = (point.name, *point.hover, f"{state} {point.tolerance:.2g}")
    return "<br>".join(escape(line) for line in lines)


def _range(points: Sequence[Point]) -> tuple[float, float]:
    """Foot and top of the plot, one decade around everything finite, the tolerances included."""
    known = [value for point in points for value in (point.error, point.tolerance)
             if math.isfinite(value) and value > 0]
    if not known:
        return 1e-16, 1.0
    return max(min(known) / 10, 1e-300), min(max(known) * 10, 1e300)


def _decades(low: float, high: float) -> int:
    """Tick distance in decades that gives at most about eight ticks."""
    return max(1, math.ceil((math.log10(high) - math.log10(low)) / 8))


def _drawn(error: float, low: float, high: float) -> float:
    if math.isnan(error):
        return high
    return min(max(error, low), high)


def _mark(figure: go.Figure, place: int, points: Sequence[Point], low: float, high: float) -> None:
    left = place < len(points) / 2
    figure.add_annotation(
        x=place, y=math.log10(_drawn(points[place].error, low, high)), text="first beyond",
        showarrow=True, arrowhead=2, arrowcolor=BAD, ax=24 if left else -24, ay=40,
        xanchor="left" if left else "right", font={"color": BAD, "size": 12}, bgcolor=BACKGROUND,
    )
