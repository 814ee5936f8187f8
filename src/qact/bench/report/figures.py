"""The report's figures as SVG text that takes its colours from the page, so dark mode works."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import torch

from qact.bench.measure.metrics import COVERAGES
from qact.bench.recipe.adaptations import heading
from qact.bench.report.summary import Method, Summary
from qact.calibration.plots import wilson_interval

# Matplotlib needs colours, the page wants variables: these stand-ins are replaced in the SVG.
_INK, MUTED, _RULE, _FACE = "#fe0200", "#fe0300", "#fe0400", "#fe0500"
SERIES = [f"#fe01{i:02x}" for i in range(8)]
_VARIABLES = {_INK: "currentColor", MUTED: "var(--muted)", _RULE: "var(--rule)"} | {
    _FACE: "var(--page)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)},
}
_MARKERS, _LINES = "osD^vPX*", ("-", "--", "-.", ":")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qact",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
}
CURVES = {
    "accuracy": ("accuracy, %", 100.0),
    "nll": ("NLL, nats", 1.0),
    "ece_debiased": ("ECE debiased, %", 100.0),
}


def curves(summary: Summary) -> str:
    """Return accuracy, NLL and debiased ECE over severity, one column per adaptation."""
    rows, columns = len(CURVES), len(summary.adaptations)
    size = (max(5.2, 3.3 * columns), 2.2 * rows + 0.5)

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
        for axes_row, (metric, (label, scale)) in zip(grid, CURVES.items(), strict=True):
            axes_row[0].set_ylabel(label)
            for axes, adaptation in zip(axes_row, summary.adaptations, strict=True):
                _reference(axes, summary, metric, scale)
                for index, name in enumerate(summary.activations):
                    _curve(axes, summary, (name, adaptation), index, metric, scale)
        for axes, adaptation in zip(grid[0], summary.adaptations, strict=True):
            axes.set_title(heading(adaptation), loc="left")
        for axes in grid[-1]:
            axes.set_xlabel("severity (0 = clean)")
            axes.set_xticks(summary.severities)
        legend(figure, grid[0][0])

    return drawn_as_svg(draw, size, "Accuracy, NLL and debiased calibration error over severity")


def _curve(
    axes: Any, summary: Summary, method: Method, index: int, metric: str, scale: float
) -> None:
    points = [(s, summary.at(method, s, metric)) for s in summary.severities]
    known = [(s, stat) for s, stat in points if stat is not None]
    x = [s for s, _ in known]
    y = [scale * stat.mean for _, stat in known]
    spread = [scale * (stat.sd or 0.0) for _, stat in known]
    colour = SERIES[index % len(SERIES)]
    low = [a - b for a, b in zip(y, spread, strict=True)]
    high = [a + b for a, b in zip(y, spread, strict=True)]
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    line(axes, x, y, index, method[0])


def legend(figure: Any, axes: Any) -> None:
    """Name the lines above the panels, in as many columns as have room."""
    handles, names = axes.get_legend_handles_labels()
    wide = 0.6 + 0.068 * max(map(len, names), default=0)  # inches: the sample, then the letters
    columns = max(1, min(len(names), int(figure.get_size_inches()[0] / wide)))
    figure.legend(handles, names, loc="outside upper left", ncols=columns)


def line(axes: Any, x: list[Any], y: list[float], index: int, label: str) -> None:
    """Draw a line in the colour, marker and dashes of the ``index``-th activation."""
    style = {"marker": _MARKERS[index % 8], "linestyle": _LINES[index % 4], "markersize": 3.5}
    axes.plot(x, y, color=SERIES[index % len(SERIES)], linewidth=1.5, label=label, **style)


def _reference(axes: Any, summary: Summary, metric: str, scale: float) -> None:
    control = summary.control()
    if control is None:
        return
    points = [(s, summary.at(control, s, metric)) for s in summary.severities]
    known = [(s, scale * stat.mean) for s, stat in points if stat is not None]
    label = f"strongest control: {control[0]}, {control[1]}"
    axes.plot(*zip(*known, strict=True), color=MUTED, linewidth=4, alpha=0.35, label=label)


def diagrams(summary: Summary, severity: int) -> str:
    """Return reliability diagrams with counts, pooled over corruptions and seeds."""
    rows, columns = len(summary.adaptations), len(summary.activations)

    def draw(figure: Any) -> None:
        ratios = [3, 1] * rows
        grid = figure.subplots(2 * rows, columns, height_ratios=ratios, sharex=True, squeeze=False)
        for i, adaptation in enumerate(summary.adaptations):
            for j, name in enumerate(summary.activations):
                bins = summary.bins((name, adaptation), severity)
                _diagram(grid[2 * i][j], grid[2 * i + 1][j], bins, SERIES[j % len(SERIES)])
                grid[2 * i][j].set_title(f"{name}, {adaptation}", loc="left")
            grid[2 * i][0].set_ylabel("accuracy")
            grid[2 * i + 1][0].set_ylabel("share")
        for axes in grid[-1]:
            axes.set_xlabel("confidence")

    title = f"Reliability diagrams at severity {severity}"
    return drawn_as_svg(draw, (max(5.2, 3.3 * columns), 3.0 * rows + 0.3), title)


def _diagram(upper: Any, lower: Any, bins: list[tuple[int, float, float]], colour: str) -> None:
    total, width = sum(count for count, *_ in bins), 1 / max(1, len(bins))
    centres = [(k + 0.5) * width for k in range(len(bins))]
    used = [(c, *one) for c, one in zip(centres, bins, strict=True) if one[0]]
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    _band(upper, used, colour)
    for _, count, confidence, hit in used:  # the gap is drawn where the confidence is
        alpha = 0.25 + 0.75 * min(1.0, 5 * count / total)
        gap = [confidence, hit]
        upper.plot([confidence] * 2, gap, color=colour, linewidth=3, alpha=alpha / 2)
        upper.plot(
            [confidence], [hit], color=colour, marker="o", markersize=4, alpha=alpha, clip_on=False
        )
    upper.set(xlim=(0, 1), ylim=(0, 1), yticks=(0, 0.5, 1))
    shares = [count / total for _, count, *_ in used]
    lower.bar([c for c, *_ in used], shares, 0.86 * width, color=colour, alpha=0.7)
    lower.set(ylim=(0, 1), yticks=(0, 1))
    lower.grid(False)


def _band(axes: Any, used: list[tuple[float, int, float, float]], colour: str) -> None:
    """Draw the 95% Wilson intervals of the bins' accuracies."""
    count, hit = (torch.tensor([bin[k] for bin in used], dtype=torch.float64) for k in (1, 3))
    low, high = wilson_interval(hit, count)
    axes.fill_between([bin[2] for bin in used], low, high, color=colour, alpha=0.18, linewidth=0)


def risks(summary: Summary, severities: list[int]) -> str:
    """Return the error rates of the most confident predictions, one row per severity."""
    size = (max(5.2, 3.3 * len(summary.adaptations)), 2.2 * len(severities) + 0.5)
    return drawn_as_svg(
        lambda canvas: _draw_risks(canvas, summary, severities), size, "Error rate over coverage"
    )


def _draw_risks(canvas: Any, summary: Summary, severities: list[int]) -> None:
    shares = [100 * k / COVERAGES for k in range(1, COVERAGES + 1)]
    size = len(severities), len(summary.adaptations)
    grid = canvas.subplots(*size, sharex=True, sharey="row", squeeze=False)
    for axes_row, severity in zip(grid, severities, strict=True):
        axes_row[0].set_ylabel(f"error, %, severity {severity}")
        for axes, adaptation in zip(axes_row, summary.adaptations, strict=True):
            for index, name in enumerate(summary.activations):
                risk = summary.risk((name, adaptation), severity)
                if risk is not None:
                    line(axes, shares, [100 * r for r in risk], index, name)
    for axes, adaptation in zip(grid[0], summary.adaptations, strict=True):
        axes.set_title(adaptation, loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("coverage, %")
    legend(canvas, grid[0][0])


def drawn_as_svg(draw: Callable[[Any], None], size: tuple[float, float], title: str) -> str:
    """Draw on a fresh figure and return an ``<svg>`` element that can stand inside a page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        page = io.StringIO()
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    return _embeddable(page.getvalue(), title)


def _embeddable(svg: str, title: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # Several figures share one page: their ids must not meet.
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
