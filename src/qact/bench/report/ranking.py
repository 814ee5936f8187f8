"""One ranked table of many activations: what they reach, and what they cost against ReLU."""

from __future__ import annotations

from statistics import fmean

from qact.bench.report.summary import Stat, Summary

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
