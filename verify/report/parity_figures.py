"""The plots of a parity report: differences of boxes and scores, scores against each other, AP by class and by size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from verify.parity.result import ParityResult
from verify.report.blocks import Figure
from verify.report.figures import SERIES, Point, base_figure, error_over_depth, escape, scatter_against

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_POINTS = 3000
_SMALLEST = 1e-9
_SIZES = {"small": "APs", "medium": "APm", "large": "APl"}


def parity_figures(result: ParityResult) -> Iterator[Figure]:
    """What the page shows; nothing where there is nothing to show."""
    if len(result.pairs):
        yield _scores(result)
        yield _histogram(result, 0, "Box differences", "largest difference of a pair's sides, pixels", "boxes-plot")
        yield _histogram(result, 1, "Score differences", "difference of a pair's scores", "differences-plot")
    yield from _ap_bars(result)
    yield _per_image(result)


def _scores(result: ParityResult) -> Figure:
    step = max(1, -(-len(result.pairs) // _MOST_POINTS))
    shown = result.pairs[::step].astype(np.float64)
    figure = scatter_against(
        [float(f"{value:.6g}") for value in shown[:, 2]], [float(f"{value:.6g}") for value in shown[:, 3]],
        [f"box difference {box:.2e} pixels" for box in shown[:, 0]], "TensorFlow's score", "PyTorch's score",
    )  # fmt: skip
    every = f" Every {step}th pair is drawn." if step > 1 else ""
    return Figure(
        "PyTorch's scores over TensorFlow's", figure, key="scores-plot", height=380,
        alternative="Scores of paired detections, PyTorch's over TensorFlow's; equal scores lie on the diagonal.",
        caption=f"{len(result.pairs)} pairs; equal scores lie on the diagonal.{every}",
    )  # fmt: skip


def _histogram(result: ParityResult, column: int, title: str, axis: str, key: str) -> Figure:
    """Counts by decade; differences of 0 have a bar of their own."""
    values = result.pairs[:, column].astype(np.float64)
    equal, others = int((values == 0).sum()), values[values > 0]
    names, counts = ["equal"], [equal]
    if len(others):
        decades = np.floor(np.log10(np.maximum(others, _SMALLEST))).astype(int)
        for decade in range(int(decades.min()), int(decades.max()) + 1):
            names.append(f"1e{decade} to 1e{decade + 1}")
            counts.append(int((decades == decade).sum()))
    figure = base_figure(axis, "pairs")
    figure.add_bar(x=names, y=counts, marker={"color": SERIES[0]}, hovertemplate="%{x}: %{y}<extra></extra>")
    figure.update_xaxes(type="category")
    return Figure(
        title, figure, key=key, height=300,
        alternative=f"Histogram: {axis}, of {len(values)} pairs, by powers of ten.",
    )  # fmt: skip


def _ap_bars(result: ParityResult) -> Iterator[Figure]:
    theirs, mine = result.tensorflow_metrics, result.pytorch_metrics
    if theirs is None or mine is None:
        return
    classes = {name: (value, mine.per_class[name]) for name, value in theirs.per_class.items() if value >= 0}
    if classes:
        yield Figure(
            "AP of every category", _two_bars(classes, "category"), key="categories-plot", height=360,
            alternative="AP of every category with annotated boxes, TensorFlow beside PyTorch.",
        )  # fmt: skip
    sizes = {name: (theirs.values[key], mine.values[key]) for name, key in _SIZES.items() if theirs.values[key] >= 0}
    if sizes:
        missing = [name for name in _SIZES if name not in sizes]
        yield Figure(
            "AP by the size of boxes", _two_bars(sizes, "area: small to 32², medium to 96², large beyond, pixels"),
            key="sizes-plot", height=300, alternative="AP of small, medium and large boxes, TensorFlow beside PyTorch.",
            caption=f"Nothing to measure: {', '.join(missing)}." if missing else "",
        )  # fmt: skip


def _two_bars(values: Mapping[str, tuple[float, float]], axis: str) -> go.Figure:
    figure = base_figure(axis, "AP")
    for number, side in enumerate(("TensorFlow", "PyTorch")):
        figure.add_bar(
            name=side, x=[escape(name) for name in values], y=[pair[number] for pair in values.values()],
            marker={"color": SERIES[number]}, hovertemplate=f"%{{x}}, {side}: %{{y:.4f}}<extra></extra>",
        )
    figure.update_layout(barmode="group")
    figure.update_xaxes(type="category")
    figure.update_yaxes(range=[0, 1])
    return figure


def _per_image(result: ParityResult) -> Figure:
    points = [
        Point(
            image.file_name,
            "all boxes paired" if image.matched == image.tensorflow == image.pytorch else "some without a partner",
            image.box_difference,
            0.1,
            (
                f"pairs {image.matched} of {image.tensorflow} and {image.pytorch}",
                f"score difference {image.score_difference:.2e}",
                f"disagreement {image.disagreement:.3g}",
            ),
        )
        for image in result.images
    ]
    return Figure(
        "Box difference per image",
        error_over_depth(points, None, unit="largest box difference, pixels", depth="images"),
        key="images-plot",
        alternative="Largest difference of paired boxes of every image, in pixels on a logarithmic axis. The table of "
        "images holds the same numbers.",
        caption="Click a point to see its row in the table. Boxes of thousands of pixels may differ by more than 0.1.",
        rows_of="images",
    )
