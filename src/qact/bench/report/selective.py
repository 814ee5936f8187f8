"""The report's risk against coverage: how wrong the most confident predictions are."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from qact.bench.measure.metrics import COVERAGES
from qact.bench.report import figures
from qact.bench.report.markup import figure, section
from qact.bench.report.summary import Method, Summary


def risk_of(summary: Summary, method: Method, severity: int) -> list[float] | None:
    """Return the mean risk at each coverage, over corruptions and seeds; None if not measured."""
    rows = [
        row.get("risk")
        for row in summary.results.rows
        if (row["activation"], row["adaptation"], row["severity"]) == (*method, severity)
    ]
    known = [risk for risk in rows if risk is not None]
    if not known or len(known) < len(rows):  # rows of an older bench
        return None
    return [fmean(column) for column in zip(*known, strict=True)]


def risk_section(summary: Summary) -> str:
    """Return the curves of the clean and of the most corrupted images; empty if not measured."""
    severities = sorted({summary.severities[0], summary.severities[-1]})
    if any(risk_of(summary, m, s) is None for m in summary.methods for s in severities):
        return ""
    caption = (
        "Error rate of the most confident predictions, over their share of all predictions (mean "
        "over corruptions and seeds). A confidence that knows where it errs starts low and rises."
    )
    drawn = figures.drawn_as_svg(
        lambda canvas: _draw(canvas, summary, severities),
        (max(5.2, 3.3 * len(summary.adaptations)), 2.2 * len(severities) + 0.5),
        "Error rate over coverage",
    )
    return section("Risk and coverage", figure(drawn, caption))


def _draw(canvas: Any, summary: Summary, severities: list[int]) -> None:
    shares = [100 * k / COVERAGES for k in range(1, COVERAGES + 1)]
    size = len(severities), len(summary.adaptations)
    grid = canvas.subplots(*size, sharex=True, sharey="row", squeeze=False)
    for axes_row, severity in zip(grid, severities, strict=True):
        axes_row[0].set_ylabel(f"error, %, severity {severity}")
        for axes, adaptation in zip(axes_row, summary.adaptations, strict=True):
            for index, name in enumerate(summary.activations):
                risk = risk_of(summary, (name, adaptation), severity)
                if risk is not None:
                    figures.line(axes, shares, [100 * r for r in risk], index, name)
    for axes, adaptation in zip(grid[0], summary.adaptations, strict=True):
        axes.set_title(adaptation, loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("coverage, %")
    handles, names = grid[0][0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside upper left", ncols=len(names))
