"""The tables of the page as plain data: what stands in which cell, and what is marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from qact.bench.measure.drift import Row as DriftRow
from qact.bench.measure.drift import by_layer, correlations
from qact.bench.recipe.adaptations import heading
from qact.bench.report import published
from qact.bench.report.ranking import FEW
from qact.bench.report.streams import BASES, Column, Streamed
from qact.bench.report.summary import Method, Stat, Summary
from qact.bench.report.text import MISSING, fixed, interval, signed

_MANY = 9  # columns, from which on a table is set closer


@dataclass(frozen=True)
class Cell:
    """Text, what is smaller behind it, and the classes of both."""

    text: str
    sd: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A heading, behind a dot of the ``colour``-th activation if there is one, and the cells.

    One without cells is a heading of those that follow.
    """

    head: str
    cells: Sequence[Cell] = ()
    kind: str = ""
    colour: int | None = None


@dataclass(frozen=True)
class Table:
    """Columns, that of the headings first, and rows."""

    columns: Sequence[Cell]
    rows: Sequence[Row]
    caption: str = ""
    dense: bool = False


@dataclass(frozen=True)
class Metric:
    """A metric of the rows: its title, unit and digits, and whether more is better."""

    name: str
    title: str
    scale: float
    digits: int
    higher: bool = False


ACCURACY = Metric("accuracy", "Accuracy, %", 100.0, 1, higher=True)
METRICS = (
    ACCURACY,
    Metric("nll", "Negative log-likelihood, nats", 1.0, 3),
    Metric("ece", "ECE, %: plain, p = 1, 15 bins of equal width", 100.0, 1),
    Metric("ece_debiased", "ECE, %: debiased, p = 2, 15 bins of equal mass", 100.0, 1),
    Metric("brier", "Brier score", 1.0, 3),
)
_ECE = Metric("ece", "ECE, %", 100.0, 1)
_STREAM_COSTS = (
    _ECE,
    Metric("ms_per_batch", "ms", 1.0, 1),
    Metric("held_kib", "KiB", 1.0, 0),
)


def by_severity(summary: Summary) -> list[Table]:
    """Return one table per metric over severity; the last column is the mean under shift."""
    columns = ["clean" if s == 0 else str(s) for s in summary.severities]

    def stats(method: Method, metric: str) -> list[Stat | None]:
        found = [summary.at(method, severity, metric) for severity in summary.severities]
        return [*found, summary.shifted(method, metric)]

    return [_of_methods(summary, metric, [*columns, "shifted"], stats) for metric in METRICS]


def by_corruption(summary: Summary) -> list[Table]:
    """Return one table per metric over corruptions, severities from 1 on."""
    if not any(summary.severities):
        return []
    columns = [name.replace("_", " ") for name in summary.corruptions]

    def stats(method: Method, metric: str) -> list[Stat | None]:
        found = [summary.shifted(method, metric, name) for name in summary.corruptions]
        return [*found, summary.shifted(method, metric)]

    return [_of_methods(summary, metric, [*columns, "mean"], stats) for metric in METRICS]


def _of_methods(
    summary: Summary,
    metric: Metric,
    columns: list[str],
    stats: Callable[[Method, str], list[Stat | None]],
) -> Table:
    """Return a table of methods, grouped by adaptation; the last column is set apart."""
    found = {method: stats(method, metric.name) for method in summary.methods}
    cells = dict(zip(found, _marked(list(found.values()), metric), strict=True))
    rows = []
    for adaptation in summary.adaptations:
        rows.append(Row(heading(adaptation), kind="group"))
        for method in (m for m in summary.methods if m[1] == adaptation):
            *plain, last = cells[method]
            kind = "control" if method == summary.control() else ""
            row = [*plain, replace(last, kind=f"{last.kind} sum".strip())]
            rows.append(Row(method[0], row, kind, _colour(summary, method[0])))
    top = [Cell(""), *map(Cell, columns[:-1]), Cell(columns[-1], kind="sum")]
    return Table(top, rows, metric.title, len(columns) > _MANY)


def against_controls(summary: Summary) -> Table | None:
    """Return the accuracy of each other method against every control with the same adaptation."""
    rows = []
    for method in (m for m in summary.methods if not summary.is_control(m[0])):
        for control in summary.controls(method[1])[:FEW]:
            gap = summary.gap(method, "accuracy", control)
            if gap is not None:
                cells = (method[1], control[0], signed(gap.mean), interval(gap))
                row = Row(method[0], [*map(Cell, cells)], colour=_colour(summary, method[0]))
                rows.append(row)
    titles = ("", "adaptation", "against", "points", "95% interval")
    return Table([*map(Cell, titles)], rows) if rows else None


def costs(summary: Summary) -> Table:
    """Return what each activation cost to train and to predict with."""
    titles = (
        "",
        "parameters",
        "seconds per epoch",
        "step, ms per image",
        "step, MiB",
        *(f"{name}, ms per image" for name in summary.timed),
        "validation accuracy, %",
        "single-sample difference",
    )
    rows = (_cost(summary, name) for name in summary.activations)
    return Table([*map(Cell, titles)], [row for row in rows if row is not None])


def _cost(summary: Summary, name: str) -> Row | None:
    cells = summary.results.cells
    own = [cells[f"{name}/{s}"] for s in summary.seeds if f"{name}/{s}" in cells]
    if not own:
        return None
    trained = [c for c in own if c["history"]]
    epoch = Stat.of(c["train_seconds"] / len(c["history"]) for c in trained)
    last = (c["history"][-1] for c in trained)
    accuracy = Stat.of(epoch["val_accuracy"] for epoch in last if "val_accuracy" in epoch)
    known = summary.costs(name)
    predicted = (known.get("predict_ms", {}).get(adaptation) for adaptation in summary.timed)
    measured = (known.get("step_ms"), known.get("kept_mib"), *predicted)
    found = [
        Cell(f"{own[0]['parameters']:,}"),
        _number(epoch, 1, 2),
        *(Cell(fixed(value, 2)) for value in measured),
        _number(accuracy, 100, 1),
        Cell(f"{max(c['single_sample_gap'] for c in own):.1e}"),
    ]
    return Row(name, found, colour=_colour(summary, name))


def with_published(summary: Summary) -> Table | None:
    """Return published numbers with our rows under them; None where they do not fit."""
    if published.misfit(summary) is not None:
        return None
    words, digits = ("", "network", "test images serve for"), published.COLUMNS
    theirs = published.published(summary.results.recipe.data.name, summary.corruptions)
    rows = [_in_words(p.method, (p.model, f"{p.regime} ({p.source})"), p.numbers()) for p in theirs]
    for method, model, regime, *numbers in published.ours(summary):
        rows.append(_in_words(method, (model, regime), numbers, "control"))
    return Table([*(Cell(t, kind="words") for t in words), *map(Cell, digits)], rows)


def _in_words(head: str, words: Iterable[str], numbers: Iterable[str], kind: str = "") -> Row:
    return Row(head, [*(Cell(w, kind="words") for w in words), *map(Cell, numbers)], kind)


def by_stream(streamed: Streamed) -> Iterator[Table]:
    """Yield per network: accuracy with costs, points against no adaptation, ECE."""
    if not streamed.columns:
        return
    first = streamed.columns[0]
    for name in streamed.networks:
        title = f"{name}: accuracy, %; ECE, time and memory at {first.name}"
        yield _over_streams(streamed, name, ACCURACY, title, _STREAM_COSTS)
        if gaps := _gaps(streamed, name):
            yield gaps
        yield _over_streams(streamed, name, _ECE, f"{name}: ECE, %")


def _over_streams(
    streamed: Streamed, name: str, metric: Metric, title: str, further: Sequence[Metric] = ()
) -> Table:
    """Return a table of one metric, with further ones of the first stream at the end."""
    found = [
        [streamed.stat(name, method, column, metric.name) for column in streamed.columns]
        for method in streamed.methods
    ]
    rows = []
    for method, cells in zip(streamed.methods, _marked(found, metric), strict=True):
        for more in further:
            stat = streamed.stat(name, method, streamed.columns[0], more.name)
            cells.append(replace(_number(stat, more.scale, more.digits), kind="sum"))
        rows.append(_of_stream(method, cells))
    extra = [Cell(more.title, kind="sum") for more in further]
    return Table([*_top(streamed.columns), *extra], rows, title, dense=True)


def _gaps(streamed: Streamed, name: str) -> Table | None:
    """Return points against the network as trained, with 95% intervals over seeds."""
    rows = []
    for method in (method for method in streamed.methods if method not in BASES):
        gaps = [streamed.gap(name, method, column) for column in streamed.columns]
        if any(gap is not None for gap in gaps):
            rows.append(_of_stream(method, [_points(gap) for gap in gaps]))
    title = f"{name}: points of accuracy against the network as trained"
    if len(streamed.seeds) > 1:
        title += ", ± half of the 95% interval over seeds"
    return Table(_top(streamed.columns), rows, title, dense=True) if rows else None


def _of_stream(method: str, cells: Sequence[Cell]) -> Row:
    return Row(method, cells, "control" if method in BASES else "")


def _top(columns: list[Column]) -> list[Cell]:
    titles = (c.stream if c.batch is None else f"{c.stream}\n{c.batch}" for c in columns)
    return [Cell(""), *map(Cell, titles)]


def _points(gap: Stat | None) -> Cell:
    if gap is None:
        return Cell(MISSING)
    half = gap.half()
    return Cell(signed(gap.mean), "" if half is None else f" ±{100 * half:.1f}")


def _number(stat: Stat | None, scale: float, digits: int) -> Cell:
    if stat is None:
        return Cell(MISSING)
    sd = "" if stat.sd is None else f" ±{scale * stat.sd:.{digits}f}"
    return Cell(f"{scale * stat.mean:.{digits}f}", sd)


def _marked(rows: list[list[Stat | None]], metric: Metric) -> list[list[Cell]]:
    """Return the cells of a metric, the best of each column marked."""
    pick = max if metric.higher else min
    best = [
        pick((stat.mean for stat in column if stat is not None), default=None)
        for column in zip(*rows, strict=True)
    ]
    return [
        [
            replace(
                _number(stat, metric.scale, metric.digits),
                kind="best" if stat is not None and stat.mean == top else "",
            )
            for stat, top in zip(row, best, strict=True)
        ]
        for row in rows
    ]


def _colour(summary: Summary, activation: str) -> int:
    return summary.activations.index(activation) % FEW


def by_drift(rows: list[DriftRow]) -> Iterator[Table]:
    """Yield per activation the points of accuracy that each layer brings back, by corruption."""
    told = correlations(rows)
    for name, layers in by_layer(rows).items():
        corruptions = list(dict.fromkeys(c for found in layers.values() for c in found))
        most = {c: max(found.get(c, -1.0) for found in layers.values()) for c in corruptions}
        lines = [
            Row(layer, [_brought(found.get(c), most[c]) for c in corruptions])
            for layer, found in layers.items()
        ]
        last = Row(
            "rank correlation",
            [Cell(fixed(told[name][c], 2).replace("-", "−")) for c in corruptions],
        )
        columns = [Cell("layer"), *(Cell(c.replace("_", " ")) for c in corruptions)]
        yield Table(columns, [*lines, last], name, dense=len(columns) > _MANY)


def _brought(value: float | None, most: float) -> Cell:
    if value is None:
        return Cell(MISSING)
    return Cell(signed(value), kind="best" if value == most > 0 else "")
