"""Every table for a terminal, 80 columns wide: severities, streams, ranking, faults, scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qact.bench.measure.drift import by_layer, correlations
from qact.bench.measure.faults import WHERE, by_rate
from qact.bench.measure.scores import by_score
from qact.bench.recipe.adaptations import describe
from qact.bench.report.published import COLUMNS, NOTE, misfit, ours, published
from qact.bench.report.ranking import FEW, ranked, score, seconds
from qact.bench.report.streams import BASES, Column, Streamed, legend, over_severity
from qact.bench.report.summary import Summary
from qact.bench.report.text import counted, points, shown, spread
from qact.terminal import print_whole

MARK = "◆"
Cells = tuple[str, list[str]]  # heading, one cell per method


def print_all(summary: Summary, console: Console) -> None:
    """Print severity by severity what fits on a screen; of more activations, the ranking."""
    streamed = Streamed(summary.results)
    if over_severity(summary, streamed):
        few = len(summary.activations) <= FEW
        (print_summary if few else print_ranking)(summary, console)
    print_streams(streamed, console)
    print_published(summary, console)


def print_summary(summary: Summary, console: Console) -> None:
    """Print accuracy and ECE by severity, the strongest control marked, and the gaps to it."""
    for metric, title in (("accuracy", "Accuracy, %"), ("ece", "ECE, %")):
        console.print()
        console.print(Text(f"{title}, by severity; {_over(summary)}", style="bold"))
        table = _table(summary, metric, spread=True)
        whole = console.measure(table, options=console.options.update(max_width=10_000))
        fits = whole.maximum <= console.width
        print_whole(table if fits else _table(summary, metric, spread=False), console)
    console.print()
    for adaptation in summary.adaptations:
        line = _plain(show_header=False)
        line.add_row(
            Text(adaptation.ljust(10), style="cyan"), Text(describe(adaptation), style="dim")
        )
        print_whole(line, console)
    _print_leaks(summary, console)
    _print_gaps(summary, console)
    _print_costs(summary, console)


def _print_leaks(summary: Summary, console: Console) -> None:
    for name, gap in summary.leaking().items():
        text = (
            f"! {name}: with stored statistics a logit still depends on the other images of the "
            f"batch (by up to {gap:.2g}); its frozen rows are not those of single samples"
        )
        console.print(Text(text, style="bold red"))


def _over(summary: Summary) -> str:
    return f"mean of {counted(summary.corruptions, 'corruption')}, {spread(*summary.spread())}"


def _table(summary: Summary, metric: str, spread: bool) -> Table:
    """Return methods by severity; without ``spread``, deviations stand in the last column alone."""
    table = _plain()
    table.add_column("", no_wrap=True, min_width=12)
    for severity in summary.severities:
        table.add_column("clean" if severity == 0 else str(severity), justify="right", no_wrap=True)
    table.add_column("shifted", justify="right", no_wrap=True, style="bold")
    control = summary.control()
    for adaptation in summary.adaptations:
        table.add_row(Text(adaptation, style="cyan"))
        for method in (m for m in summary.methods if m[1] == adaptation):
            mark = MARK if method == control else " "
            stats = [summary.at(method, severity, metric) for severity in summary.severities]
            if not spread:
                stats = [stat and replace(stat, sd=None) for stat in stats]
            table.add_row(
                Text(f" {mark} {method[0]}", style="yellow" if method == control else ""),
                *(shown(stat, 100) for stat in stats),
                shown(summary.shifted(method, metric), 100),
            )
    return table


def _print_gaps(summary: Summary, console: Console) -> None:
    control = summary.control()
    if control is None:
        return
    console.print()
    console.print(Text(f"{MARK} strongest control: {control[0]}, {control[1]}", style="yellow"))
    others = [m for m in summary.methods if not summary.is_control(m[0])]
    if others:
        console.print("Accuracy against it under shift (severity 1 and up), in points:")
    for method in others:
        gap = summary.gap(method, "accuracy")
        if gap is None:
            continue
        text = f"  {method[0]:<12} {method[1]:<10} {100 * gap.mean:+6.1f}"
        interval = gap.interval()
        if interval is not None:
            low, high = interval
            text += f"   95% interval {100 * low:+.1f} to {100 * high:+.1f}"
        console.print(text, highlight=False)


def _print_costs(summary: Summary, console: Console) -> None:
    known = {name: summary.costs(name) for name in summary.activations}
    if not any(known.values()):
        return
    console.print()
    console.print(Text("Cost: ms per image; MiB that a training step keeps", style="bold"))
    table = _plain()
    for column in ("", "step", "MiB", *summary.timed):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, costs in known.items():
        if costs:
            predicted = (costs["predict_ms"].get(a) for a in summary.timed)
            cells = (costs["step_ms"], costs["kept_mib"], *predicted)
            table.add_row(f"   {name}", *("–" if c is None else f"{c:.2f}" for c in cells))
    print_whole(table, console)


def print_streams(streamed: Streamed, console: Console) -> None:
    """Print accuracy, costs, and the gaps to the network that is not adapted."""
    if not streamed.columns:
        return
    for name in streamed.networks:
        console.print()
        console.print(Text(f"Accuracy, %, by stream: {name}{_seeds_of(streamed)}", style="bold"))
        columns = [[_column(streamed, name, column)] for column in streamed.columns]
        _print_blocks(streamed.methods, [*columns, _costs(streamed, name)], console)
        gaps = [_stream_gaps(streamed, name, column) for column in streamed.columns]
        if any(set(cells) - {"–"} for _, cells in gaps):
            console.print(Text(f"{name}: points against the network as trained", style="bold"))
            others = [method for method in streamed.methods if method not in BASES]
            _print_blocks(others, [[cells] for cells in gaps], console)
    console.print(Text(legend(streamed), style="dim"))


def _seeds_of(streamed: Streamed) -> str:
    seeds = len(streamed.seeds)
    return f"; {spread(seeds, seeds)}"


def _column(streamed: Streamed, name: str, column: Column) -> Cells:
    found = [streamed.stat(name, method, column, "accuracy") for method in streamed.methods]
    return _heading(column), [shown(stat, 100) for stat in found]


def _stream_gaps(streamed: Streamed, name: str, column: Column) -> Cells:
    methods = (method for method in streamed.methods if method not in BASES)
    return _heading(column), [points(streamed.gap(name, method, column)) for method in methods]


def _heading(column: Column) -> str:
    return column.stream if column.batch is None else f"{column.stream}\n{column.batch}"


def _costs(streamed: Streamed, name: str) -> list[Cells]:
    first = streamed.columns[0]

    def mean(metric: str, scale: float, digits: int) -> list[str]:
        stats = [streamed.stat(name, method, first, metric) for method in streamed.methods]
        return ["–" if s is None else f"{scale * s.mean:.{digits}f}" for s in stats]

    return [
        ("ECE", mean("ece", 100, 1)),
        ("ms", mean("ms_per_batch", 1, 1)),
        ("KiB", mean("held_kib", 1, 0)),
    ]


def _print_blocks(methods: list[str], units: list[list[Cells]], console: Console) -> None:
    """Print columns in blocks that fit the width; a unit of several is not torn apart."""
    label = max(map(len, methods), default=0) + 1
    blocks: list[list[Cells]] = [[]]
    room = console.width - label
    for unit in units:
        wide = sum(max(map(len, (*head.split("\n"), *cells))) + 1 for head, cells in unit)
        if wide > room and blocks[-1]:
            blocks.append([])
            room = console.width - label
        blocks[-1] += unit
        room -= wide
    for block in blocks:
        table = _plain()
        table.add_column("", no_wrap=True)
        for heading, _ in block:
            table.add_column(heading, justify="right", no_wrap=True)
        for index, method in enumerate(methods):
            style = "yellow" if method in BASES else ""
            table.add_row(Text(method), *(cells[index] for _, cells in block), style=style)
        print_whole(table, console)


def print_ranking(summary: Summary, console: Console) -> None:
    """Print one row per activation: accuracy clean and under shift, calibration, and cost."""
    console.print()
    behind = spread(*summary.spread())
    title = f"{len(summary.activations)} activations by accuracy under shift, %; {behind}"
    console.print(Text(title, style="bold"))
    table = _plain()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for column in ("clean", *summary.adaptations, "ECE", "epoch"):
        table.add_column(column, justify="right", no_wrap=True)
    base = seconds(summary, "relu")
    for place, name in enumerate(ranked(summary), 1):
        table.add_row(
            str(place), name, *_rank_cells(summary, name, base), style=_rank_style(summary, name)
        )
    print_whole(table, console)
    console.print(Text(_rank_legend(summary, base), style="dim"))


def _rank_cells(summary: Summary, name: str, base: float | None) -> list[str]:
    first = (name, summary.adaptations[0])
    spent = seconds(summary, name)
    cost = "–" if spent is None else f"{spent / base:.1f}x" if base else f"{spent:.1f} s"
    return [
        shown(summary.at(first, 0, "accuracy"), 100),
        *(shown(score(summary, name, adaptation), 100) for adaptation in summary.adaptations),
        shown(summary.shifted(first, "ece"), 100),
        cost,
    ]


def _rank_style(summary: Summary, name: str) -> str:
    if name == "relu":
        return "yellow"
    return "" if summary.is_control(name) else "cyan"


def _rank_legend(summary: Summary, base: float | None) -> str:
    first = summary.adaptations[0]
    cost = "epoch: its time against that of ReLU, forward, backward and update. " if base else ""
    return (
        f"clean and ECE: {first}, ECE under shift. {cost}"
        f"Ranked by the mean over {', '.join(summary.adaptations)}; the differences of neighbours "
        "are mostly smaller than their spread."
    )


def print_published(summary: Summary, console: Console) -> None:
    """Print our rows under the published ones; say so where data or protocol do not fit."""
    reason = misfit(summary)
    if reason is not None:
        if published(summary.results.recipe.data.name):
            text = f"No published numbers beside these: {reason}."
            console.print(Text(f"\n{text}", style="dim"))
        return
    console.print()
    number = len(summary.corruptions)
    over = "the 15 corruptions" if number == 15 else f"{number} corruptions"
    title = f"Accuracy, %; NLL, ECE, % (1 to 5). Over {over}: published, then ours"
    console.print(Text(title, style="bold"))
    table = _plain()
    for column in ("", "network", "test images serve for"):
        table.add_column(column)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for p in published(summary.results.recipe.data.name, summary.corruptions):
        table.add_row(p.method, p.model, p.regime, *p.numbers(), style="dim")
    for row in ours(summary):
        table.add_row(*row, style="bold")
    print_whole(table, console)
    console.print(Text(NOTE, style="dim"))


def print_faults(rows: list[dict[str, Any]], console: Console) -> None:
    """Print one table per place: mean accuracy by rate, best first by the sum over the rates."""
    seeds = len({row["seed"] for row in rows})
    for where in WHERE:
        here = [row for row in rows if row["where"] == where]
        rates = {
            rate: f"{rate:.0e}" if rate else "clean" for rate in sorted(r["rate"] for r in here)
        }
        title = f"Accuracy, %, with bits of the {where} flipped; mean of {seeds} seeds"
        _print_means(title, rates, by_rate(here), console)


def print_scores(rows: list[dict[str, Any]], console: Console) -> None:
    """Print one table per set of outliers: mean AUROC by activation, the best score first."""
    seeds = len({row["seed"] for row in rows})
    for strange in dict.fromkeys(row["outliers"] for row in rows):
        here = [row for row in rows if row["outliers"] == strange]
        title = f"AUROC, %, test images against {strange}; mean of {seeds} seeds"
        names = {row["activation"]: row["activation"] for row in here}
        _print_means(title, names, by_score(here), console)


def print_drift(rows: list[dict[str, Any]], console: Console) -> None:
    """Print one table per activation: the points of accuracy that each layer brings back."""
    seeds, told = len({row["seed"] for row in rows}), correlations(rows)
    for name, layers in by_layer(rows).items():
        title = f"{name}: accuracy, points, that a layer's context put right brings back"
        corruptions = {c: c.replace("_", " ") for found in layers.values() for c in found}
        _print_means(f"{title}; mean of {seeds} seeds", corruptions, layers, console)
        shown = ", ".join(f"{words} {told[name][c]:.2f}" for c, words in corruptions.items())
        console.print(Text(f"rank correlation with distance: {shown}", style="dim"))


def _print_means(
    title: str, columns: dict[Any, str], means: dict[str, dict[Any, float]], console: Console
) -> None:
    """Print shares as per cents: a row per name, a column per key, headed by its words."""
    console.print()
    console.print(Text(title, style="bold"))
    table = _plain()
    table.add_column("", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for name, found in means.items():
        table.add_row(name, *(f"{100 * found[c]:.1f}" if c in found else "–" for c in columns))
    print_whole(table, console)


def _plain(**options: Any) -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, **options)
