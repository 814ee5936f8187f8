"""The report's tables: every metric by severity and by corruption, and gaps to controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from qact.bench.recipe.adaptations import heading
from qact.bench.report.markup import key, note, number, section, signed
from qact.bench.report.ranking import FEW
from qact.bench.report.stat import Stat
from qact.bench.report.summary import Method, Summary


@dataclass(frozen=True)
class _Metric:
    name: str
    title: str
    scale: float
    digits: int
    higher: bool = False


_METRICS = (
    _Metric("accuracy", "Accuracy, %", 100.0, 1, higher=True),
    _Metric("nll", "Negative log-likelihood, nats", 1.0, 3),
    _Metric("ece", "ECE, %: plain, p = 1, 15 bins of equal width", 100.0, 1),
    _Metric("ece_debiased", "ECE, %: debiased, p = 2, 15 bins of equal mass", 100.0, 1),
    _Metric("brier", "Brier score", 1.0, 3),
)

_MANY = 9  # columns, from which on a table is set closer


def by_severity(summary: Summary) -> str:
    """Return one table per metric."""
    columns = ["clean" if s == 0 else str(s) for s in summary.severities]

    def table(metric: _Metric) -> str:
        def cells(method: Method) -> list[Stat | None]:
            stats = [summary.at(method, s, metric.name) for s in summary.severities]
            return [*stats, summary.shifted(method, metric.name)]

        return _table(summary, metric, metric.title, [*columns, "shifted"], cells)

    text = (
        "Mean over corruptions, ± one standard deviation over seeds. The strongest control is "
        "shaded, the best of each column bold; shifted is the mean over severities from 1 on."
    )
    tables = "".join(table(metric) for metric in _METRICS)
    return section("Numbers by severity", f'{note(text)}<div class="tables">{tables}</div>')


def by_corruption(summary: Summary) -> str:
    """Return one table per metric of every corruption, averaged over severities from 1 on."""
    if not any(summary.severities):
        return ""
    columns = [*(c.replace("_", " ") for c in summary.corruptions), "mean"]

    def table(metric: _Metric) -> str:
        def cells(method: Method) -> list[Stat | None]:
            stats = [summary.shifted(method, metric.name, c) for c in summary.corruptions]
            return [*stats, summary.shifted(method, metric.name)]

        return _table(summary, metric, metric.title, columns, cells)

    tables = "".join(table(metric) for metric in _METRICS)
    text = note("Mean over severities from 1 on, ± one standard deviation over seeds.")
    return section("By corruption", f'{text}<div class="tables">{tables}</div>')


def against_controls(summary: Summary) -> str:
    """Return the accuracy of each other method against every control with the same adaptation."""
    body = ""
    for method in summary.methods:
        if summary.is_control(method[0]):
            continue
        for control in summary.controls(method[1])[:FEW]:
            gap = summary.gap(method, "accuracy", control)
            if gap is not None:
                body += (
                    f"<tr><th>{key(summary, method[0])}</th><td>{escape(method[1])}</td>"
                    f"<td>{escape(control[0])}</td><td>{signed(gap.mean)}</td>"
                    f"<td>{_interval(gap)}</td></tr>"
                )
    if not body:
        return ""
    text = (
        "Accuracy in points, mean over corruptions and severities from 1 on, against each control "
        "that was given the same test images; paired by seed, 95% interval by Student's t."
    )
    titles = ("", "adaptation", "against", "points", "95% interval")
    top = "".join(f"<th>{escape(title)}</th>" for title in titles)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return section("Against each control", f'{note(text)}<div class="wide">{table}</div>')


def _interval(gap: Stat) -> str:
    interval = gap.interval()
    return "–" if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"


def _table(
    summary: Summary,
    metric: _Metric,
    title: str,
    columns: list[str],
    cells: Callable[[Method], list[Stat | None]],
) -> str:
    """Return a table of methods, grouped by adaptation; the last column is the summary."""
    found = {method: cells(method) for method in summary.methods}
    best = [_best(list(column), metric.higher) for column in zip(*found.values(), strict=True)]
    body = ""
    for adaptation in summary.adaptations:
        wide = f'<th colspan="{len(columns) + 1}">{escape(heading(adaptation))}</th>'
        body += f'<tr class="group">{wide}</tr>'
        for method in (m for m in summary.methods if m[1] == adaptation):
            mark = ' class="control"' if method == summary.control() else ""
            body += f"<tr{mark}><th>{key(summary, method[0])}</th>"
            body += _numbers(found[method], best, metric) + "</tr>"
    top = "".join(f"<th>{escape(c)}</th>" for c in columns[:-1])
    dense = ' class="dense"' if len(columns) > _MANY else ""
    return (
        f'<div class="wide"><table{dense}><caption>{escape(title)}</caption>'
        f'<thead><tr><th></th>{top}<th class="sum">{escape(columns[-1])}</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _numbers(stats: list[Stat | None], best: list[Stat | None], metric: _Metric) -> str:
    html = ""
    for k, stat in enumerate(stats):
        kinds = ["best"] * (stat is not None and stat is best[k]) + ["sum"] * (k == len(stats) - 1)
        html += f'<td class="{" ".join(kinds)}">' if kinds else "<td>"
        html += number(stat, metric.scale, metric.digits) + "</td>"
    return html


def _best(stats: list[Stat | None], higher: bool) -> Stat | None:
    known = [stat for stat in stats if stat is not None]
    pick = max if higher else min
    return pick(known, key=lambda stat: stat.mean, default=None)
