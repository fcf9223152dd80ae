"""Plots of an evaluation: precision over recall, AP per class, confusion, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from verify.evaluation.metrics import PrecisionCurves
from verify.report.figures import BACKGROUND, BAD, GOOD, MUTED, SERIES, base_figure, escape

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COUNTS_SHOWN = 24
"""Up to so many classes the confusion matrix has room for its counts."""


def precision_recall(curves: PrecisionCurves) -> go.Figure:
    """Mean over the classes at several IoUs as bold lines, every class at IoU 0.50 as a thin one."""
    figure = base_figure("recall", "precision")
    for number, (name, values) in enumerate(curves.by_class.items()):
        figure.add_scatter(
            name="each class at IoU 0.50", legendgroup="classes", showlegend=number == 0, mode="lines",
            x=list(curves.recalls), y=list(values), line={"color": MUTED, "width": 1}, opacity=0.35,
            hovertemplate=f"{escape(name)}: precision %{{y:.3f}} at recall %{{x:.2f}}<extra></extra>",
        )
    for number, (iou, values) in enumerate(curves.by_iou.items()):
        figure.add_scatter(
            name=f"IoU {iou}", mode="lines", x=list(curves.recalls), y=list(values),
            line={"color": SERIES[number % len(SERIES)], "width": 2.5, "dash": "dot" if ":" in iou else "solid"},
            hovertemplate=f"IoU {iou}: precision %{{y:.3f}} at recall %{{x:.2f}}<extra></extra>",
        )
    figure.update_xaxes(range=[-0.01, 1.01], dtick=0.2)
    figure.update_yaxes(range=[-0.02, 1.03], dtick=0.2)
    return figure


def horizontal_bars(values: Mapping[str, float], x_title: str, digits: str = ".3f") -> go.Figure:
    """One bar for each name, the first on top, its value behind it; from 0 to 1."""
    figure = base_figure(x_title, "")
    names = [_shortened(name) for name in values]
    figure.add_bar(
        orientation="h", x=list(values.values()), y=names, marker={"color": SERIES[0]},
        text=[format(value, digits) for value in values.values()], textposition="outside", cliponaxis=False,
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticks="", dtick=1)
    figure.update_xaxes(range=[0, 1.08], dtick=0.2, showgrid=True)
    figure.update_layout(bargap=0.3, margin={"l": 8, "r": 12, "t": 40, "b": 8})
    return figure


def confusion_matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> go.Figure:
    """Truth down, detected across; the colour is the share of the row, the text the count."""
    figure = base_figure("detected as", "truth")
    totals = [sum(row) or 1 for row in counts]
    shares = [[count / total for count in row] for row, total in zip(counts, totals, strict=True)]
    names = [_shortened(label) for label in labels]
    shown = len(labels) <= _COUNTS_SHOWN
    figure.add_heatmap(
        x=names, y=names, z=shares, zmin=0, zmax=1, xgap=1, ygap=1,
        customdata=[[str(count) for count in row] for row in counts],
        text=[[str(count) if count else "" for count in row] for row in counts] if shown else None,
        texttemplate="%{text}" if shown else None,
        colorscale=[[0, BACKGROUND], [1, SERIES[0]]],
        colorbar={"thickness": 12, "outlinewidth": 0, "tickformat": ".0%"},
        hovertemplate="truth %{y}, detected as %{x}: %{customdata} (%{z:.1%})<extra></extra>",
    )
    figure.update_xaxes(type="category", side="bottom", tickangle=-45 if len(labels) > 8 else None, ticks="")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticks="")
    figure.update_layout(margin={"l": 8, "r": 8, "t": 40, "b": 8})
    return figure


def score_histogram(
    edges: Sequence[float], hits: Sequence[int], others: Sequence[int], score: float | None
) -> go.Figure:
    """How many detections of each score hit an object, and how many don't; both from 0 up, on a log axis."""
    figure = base_figure("score", "detections")
    middles = [(low + high) / 2 for low, high in zip(edges[:-1], edges[1:], strict=True)]
    for name, values, color in (("of an object", hits, GOOD), ("of none, or another class", others, BAD)):
        figure.add_bar(
            name=name, x=middles, y=list(values), marker={"color": color},
            hovertemplate=f"{name}: %{{y}} around score %{{x:.3f}}<extra></extra>",
        )
    if score is not None:
        figure.add_vline(x=score, line={"color": MUTED, "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            x=score, y=0.98, yref="paper", xanchor="left", yanchor="top", text=f"best F1 at {score:.2f}",
            showarrow=False, font={"color": MUTED, "size": 12},
        )
    figure.update_layout(barmode="group", bargap=0.1)
    figure.update_xaxes(range=[0, 1], dtick=0.1)
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return figure


def bars_height(count: int) -> int:
    """Pixels that so many horizontal bars need."""
    return 118 + 26 * max(3, count)


def matrix_height(count: int) -> int:
    """Pixels that a matrix of so many rows needs."""
    return max(340, min(1100, 160 + 34 * count))


def _shortened(name: str) -> str:
    return escape(name if len(name) <= 28 else f"{name[:27]}…")
