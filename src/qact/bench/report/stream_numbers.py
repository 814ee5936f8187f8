"""The report's tables of methods by streams: accuracy and cost, gaps, calibration."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from qact.bench.report.markup import note, number, section, signed
from qact.bench.report.stat import Stat
from qact.bench.report.stream_table import legend
from qact.bench.report.streams import BASES, Column, Streamed

_COSTS = (
    ("ECE, %", "ece", 100.0, 1),
    ("ms", "ms_per_batch", 1.0, 1),
    ("KiB", "held_kib", 1.0, 0),
)


def by_stream(streamed: Streamed) -> str:
    """Return per network: accuracy with costs, points against no adaptation, ECE."""
    if not streamed.columns:
        return ""
    parts = ""
    for name in streamed.networks:
        parts += _accuracy(streamed, name) + _gaps(streamed, name) + _calibration(streamed, name)
    text = f"{legend(streamed)} The network as trained is shaded, the best of each column bold."
    return section("Methods by streams", note(text) + parts)


def _accuracy(streamed: Streamed, name: str) -> str:
    first = streamed.columns[0]

    def cells(method: str) -> str:
        costs = (
            number(streamed.stat(name, method, first, metric), scale, digits)
            for _, metric, scale, digits in _COSTS
        )
        return "".join(f'<td class="sum">{cell}</td>' for cell in costs)

    extra = "".join(f'<th class="sum">{escape(title)}</th>' for title, *_ in _COSTS)
    title = f"{name}: accuracy, %; ECE, time and memory at {first.name}"
    return _table(streamed, name, title, "accuracy", max, extra, cells)


def _calibration(streamed: Streamed, name: str) -> str:
    return _table(streamed, name, f"{name}: ECE, %", "ece", min, "", lambda method: "")


def _table(
    streamed: Streamed,
    name: str,
    title: str,
    metric: str,
    pick: Callable[..., float],
    extra: str,
    last: Callable[[str], str],
) -> str:
    """Return a table of one metric, the best of each column bold, with further cells at the end."""
    found = {
        method: [streamed.stat(name, method, column, metric) for column in streamed.columns]
        for method in streamed.methods
    }
    best = [_best(column, pick) for column in zip(*found.values(), strict=True)]
    body = ""
    for method, stats in found.items():
        body += _start(method)
        for stat, top in zip(stats, best, strict=True):
            kind = ' class="best"' if stat is not None and stat.mean == top else ""
            body += f"<td{kind}>{number(stat, 100, 1)}</td>"
        body += f"{last(method)}</tr>"
    return _framed(title, _top(streamed.columns) + extra, body)


def _gaps(streamed: Streamed, name: str) -> str:
    """Return points against the network as trained, with 95% intervals over seeds."""
    body = ""
    for method in (method for method in streamed.methods if method not in BASES):
        gaps = [streamed.gap(name, method, column) for column in streamed.columns]
        if any(gap is not None for gap in gaps):
            body += _start(method) + "".join(f"<td>{_points(gap)}</td>" for gap in gaps) + "</tr>"
    if not body:
        return ""
    title = f"{name}: points of accuracy against the network as trained"
    if len(streamed.seeds) > 1:
        title += ", ± half of the 95% interval over seeds"
    return _framed(title, _top(streamed.columns), body)


def _points(gap: Stat | None) -> str:
    if gap is None:
        return "–"
    width = gap.half()
    spread = "" if width is None else f'<span class="sd"> ±{100 * width:.1f}</span>'
    return signed(gap.mean) + spread


def _best(stats: tuple[Stat | None, ...], pick: Callable[..., float]) -> float | None:
    return pick((stat.mean for stat in stats if stat is not None), default=None)


def _start(method: str) -> str:
    shade = ' class="control"' if method in BASES else ""
    return f"<tr{shade}><th>{escape(method)}</th>"


def _top(columns: list[Column]) -> str:
    titles = (escape(c.stream) + ("" if c.batch is None else f"<br>{c.batch}") for c in columns)
    return "".join(f"<th>{title}</th>" for title in titles)


def _framed(title: str, top: str, body: str) -> str:
    return (
        f'<div class="wide"><table class="dense"><caption>{escape(title)}</caption>'
        f"<thead><tr><th></th>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )
