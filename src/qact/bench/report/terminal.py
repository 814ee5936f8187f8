"""The table for the terminal: accuracy and calibration by severity, 80 columns wide."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qact.bench.recipe.adaptations import describe
from qact.bench.report.stat import Stat
from qact.bench.report.summary import Summary
from qact.bench.report.words import counted, spread

MARK = "◆"


def shown(stat: Stat | None, scale: float = 1.0, digits: int = 1) -> str:
    """Return ``mean±sd``, ``mean`` for a single seed, or a dash for what is not measured.

    Example:
        >>> shown(Stat(0.9731, 0.0042, 3), scale=100)
        '97.3±0.4'
    """
    if stat is None:
        return "–"
    mean = f"{scale * stat.mean:.{digits}f}"
    return mean if stat.sd is None else f"{mean}±{scale * stat.sd:.{digits}f}"


def print_summary(summary: Summary, console: Console) -> None:
    """Print accuracy and ECE by severity, the strongest control marked, and the gaps to it."""
    for metric, title in (("accuracy", "Accuracy, %"), ("ece", "ECE, %")):
        console.print()
        console.print(Text(f"{title}, by severity; {_over(summary)}", style="bold"))
        console.print(_table(summary, metric))
    console.print()
    for adaptation in summary.adaptations:
        line = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
        line.add_row(
            Text(adaptation.ljust(10), style="cyan"), Text(describe(adaptation), style="dim")
        )
        console.print(line)
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


def _table(summary: Summary, metric: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True, min_width=12)
    for severity in summary.severities:
        table.add_column("clean" if severity == 0 else str(severity), justify="right", no_wrap=True)
    table.add_column("shifted", justify="right", no_wrap=True, style="bold")
    control = summary.control()
    for adaptation in summary.adaptations:
        table.add_row(Text(adaptation, style="cyan"))
        for method in (m for m in summary.methods if m[1] == adaptation):
            mark = MARK if method == control else " "
            numbers = [shown(summary.at(method, s, metric), 100) for s in summary.severities]
            table.add_row(
                Text(f" {mark} {method[0]}", style="yellow" if method == control else ""),
                *numbers,
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
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("", "step", "MiB", *summary.timed):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, costs in known.items():
        if costs:
            predicted = (costs["predict_ms"].get(a) for a in summary.timed)
            cells = (costs["step_ms"], costs["kept_mib"], *predicted)
            table.add_row(f"   {name}", *("–" if c is None else f"{c:.2f}" for c in cells))
    console.print(table)
