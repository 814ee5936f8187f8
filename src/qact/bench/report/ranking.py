"""One ranked table of many activations: what they reach, and what they cost against ReLU."""

from __future__ import annotations

from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qact.bench.report.stat import Stat
from qact.bench.report.summary import Summary
from qact.bench.report.terminal import shown
from qact.bench.report.words import spread

FEW = 8  # activations: as many as a figure has colours


def drawn(summary: Summary) -> Summary:
    """Return what figures show: of many activations QAct's own, ReLU and the best of the others.

    Of many adaptations they show the first.
    """
    if len(summary.adaptations) > FEW:
        summary = summary.among(summary.adaptations[:FEW])
    if len(summary.activations) <= FEW:
        return summary
    own = [n for n in summary.activations if n == "relu" or not summary.is_control(n)]
    return summary.only(list(dict.fromkeys([*own, *ranked(summary)]))[:FEW])


def ranked(summary: Summary) -> list[str]:
    """Return the activations, best first, by the mean of :func:`score` over the adaptations."""
    places = {name: fmean(_scores(summary, name)) for name in summary.activations}
    return sorted(places, key=lambda name: -places[name])


def _scores(summary: Summary, name: str) -> list[float]:
    found = [score(summary, name, adaptation) for adaptation in summary.adaptations]
    return [stat.mean for stat in found if stat is not None] or [0.0]


def score(summary: Summary, name: str, adaptation: str) -> Stat | None:
    """Return accuracy under shift; on clean images where no shift was measured."""
    method = (name, adaptation)
    shift = any(severity > 0 for severity in summary.severities)
    return summary.shifted(method, "accuracy") if shift else summary.at(method, 0, "accuracy")


def seconds(summary: Summary, name: str) -> float | None:
    """Return the seconds of an epoch, the median over epochs and seeds."""
    cells = [summary.results.cells.get(f"{name}/{seed}") for seed in summary.seeds]
    spent = sorted(e["seconds"] for cell in cells if cell for e in cell["history"])
    return spent[len(spent) // 2] if spent else None


def print_ranking(summary: Summary, console: Console) -> None:
    """Print one row per activation: accuracy clean and under shift, calibration, and cost."""
    console.print()
    behind = spread(*summary.spread())
    title = f"{len(summary.activations)} activations by accuracy under shift, %; {behind}"
    console.print(Text(title, style="bold"))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for column in ("clean", *summary.adaptations, "ECE", "epoch"):
        table.add_column(column, justify="right", no_wrap=True)
    base = seconds(summary, "relu")
    for place, name in enumerate(ranked(summary), 1):
        table.add_row(str(place), name, *_cells(summary, name, base), style=_style(summary, name))
    console.print(table)
    console.print(Text(_legend(summary, base), style="dim"))


def _cells(summary: Summary, name: str, base: float | None) -> list[str]:
    first = (name, summary.adaptations[0])
    spent = seconds(summary, name)
    cost = "–" if spent is None else f"{spent / base:.1f}x" if base else f"{spent:.1f} s"
    return [
        shown(summary.at(first, 0, "accuracy"), 100),
        *(shown(score(summary, name, adaptation), 100) for adaptation in summary.adaptations),
        shown(summary.shifted(first, "ece"), 100),
        cost,
    ]


def _style(summary: Summary, name: str) -> str:
    if name == "relu":
        return "yellow"
    return "" if summary.is_control(name) else "cyan"


def _legend(summary: Summary, base: float | None) -> str:
    first = summary.adaptations[0]
    cost = "epoch: its time against that of ReLU, forward, backward and update. " if base else ""
    return (
        f"clean and ECE: {first}, ECE under shift. {cost}"
        f"Ranked by the mean over {', '.join(summary.adaptations)}; the differences of neighbours "
        "are mostly smaller than their spread."
    )
