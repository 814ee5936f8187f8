"""Rows to the few numbers that a person compares: means over corruptions, spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, median, stdev
from typing import Any

from qact.bench.measure.metrics import Row
from qact.bench.recipe.adaptations import parse_adaptation
from qact.bench.recipe.recipe import network
from qact.bench.recipe.shift import ALL
from qact.bench.store.results import Results

_ROUNDING = 1e-4  # measured in float64, where rounding alone is 1e-14; older files have float32
Method = tuple[str, str]  # network, adaptation; a network is an activation, or "activation/loss"


def _network(row: Row) -> str:
    return network(row["activation"], row["loss"])


@dataclass(frozen=True)
class Stat:
    """Mean and standard deviation over seeds; the deviation is None for a single seed."""

    mean: float
    sd: float | None
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Stat | None:
        """Summarise one value per seed; None if there is none.

        Example:
            >>> Stat.of([1.0, 3.0])
            Stat(mean=2.0, sd=1.4142135623730951, seeds=2)
        """
        listed = list(values)
        if not listed:
            return None
        return cls(fmean(listed), stdev(listed) if len(listed) > 1 else None, len(listed))

    def half(self) -> float | None:
        """Return half of the 95% confidence interval of the mean, Student's t over seeds."""
        if self.sd is None:
            return None
        from scipy.stats import t

        return float(t.ppf(0.975, self.seeds - 1)) * self.sd / sqrt(self.seeds)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% confidence interval of the mean."""
        half = self.half()
        return None if half is None else (self.mean - half, self.mean + half)


class Summary:
    """Averages of a :class:`Results`, computed once and asked for by method.

    A mean over corruptions exists for a seed only if all corruptions of the recipe were measured,
    so that methods are never compared over different ones.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        recipe, shift = results.recipe, results.recipe.shift
        self.corruptions = shift.corruptions
        self.severities = tuple(sorted(shift.severities))
        self.seeds = recipe.seeds
        self.stream = "iid" if "iid" in shift.streams else shift.streams[0]
        further = {name for part in recipe.further for name in part.adaptations}
        besides = further - {*shift.adaptations}
        mine = [r for r in results.rows if self._is_main(r) and r["adaptation"] not in besides]
        self._rows: dict[tuple[str, str, str, int, int], Row] = {
            (_network(r), r["adaptation"], r["corruption"], r["severity"], r["seed"]): r
            for r in mine
        }
        names = [network(a, loss) for loss in recipe.every_loss() for a in recipe.activations]
        measured = {_network(row) for row in results.rows}
        self.activations = [name for name in names if name in measured]
        found = {(_network(row), row["adaptation"]) for row in mine}
        adapted = {adaptation for _, adaptation in found}
        ordered = dict.fromkeys((*shift.adaptations, *sorted(adapted)))
        self.adaptations = [name for name in ordered if name in adapted]
        self.timed = [name for name in self.adaptations if parse_adaptation(name).context]
        self.methods: list[Method] = [
            (act, adaptation)
            for adaptation in self.adaptations
            for act in self.activations
            if (act, adaptation) in found
        ]

    def _is_main(self, row: Row) -> bool:
        """Whether a row belongs to the conditions that are drawn over severity."""
        images = self.results.recipe.shift.images
        return (row["stream"], row["images"]) == (self.stream, images) and row["corruption"] != ALL

    def spread(self) -> tuple[int, int]:
        """Return over how many seeds a method was measured, at least and at most."""
        found: dict[Method, set[int]] = {method: set() for method in self.methods}
        for activation, adaptation, *_, seed in self._rows:
            found.get((activation, adaptation), set()).add(seed)
        counts = [len(seeds) for seeds in found.values()] or [len(self.seeds)]
        return min(counts), max(counts)

    def is_control(self, name: str) -> bool:
        """Whether a network's activation is a rival of QAct."""
        return bool(self.about(name).get("control"))

    def about(self, name: str) -> dict[str, Any]:
        """Return what is known of a network's activation: module, paper, control."""
        return self.results.activations.get(name.partition("/")[0], {})

    def only(self, names: Iterable[str]) -> Summary:
        """Return the summary of some activations alone; the rows stay shared."""
        chosen = set(names)
        part = copy(self)
        part.activations = [name for name in self.activations if name in chosen]
        part.methods = [method for method in self.methods if method[0] in chosen]
        return part

    def among(self, adaptations: Iterable[str]) -> Summary:
        """Return the summary of some adaptations alone; the rows stay shared."""
        chosen = set(adaptations)
        part = copy(self)
        part.adaptations = [name for name in self.adaptations if name in chosen]
        part.methods = [method for method in self.methods if method[1] in chosen]
        return part

    def at(self, method: Method, severity: int, metric: str) -> Stat | None:
        """Return a metric at one severity, averaged over corruptions."""
        return Stat.of(self._per_seed(method, [severity], self.corruptions, metric).values())

    def shifted(self, method: Method, metric: str, corruption: str | None = None) -> Stat | None:
        """Return a metric averaged over severities from 1 on, and over corruptions or for one."""
        names = (corruption,) if corruption else self.corruptions
        return Stat.of(self._per_seed(method, self._shifts(), names, metric).values())

    def control(self) -> Method | None:
        """Return the strongest control: the one with the best accuracy over severities from 1 on.

        It is chosen on the test images, which can only favour it: the choice is against QAct.
        """
        means = {
            method: stat.mean
            for method in self.methods
            if self.is_control(method[0]) and (stat := self.shifted(method, "accuracy")) is not None
        }
        return max(means, key=lambda method: means[method], default=None)

    def controls(self, adaptation: str) -> list[Method]:
        """Return the controls with an adaptation: the rivals of QAct that read the same images."""
        return [m for m in self.methods if m[1] == adaptation and self.is_control(m[0])]

    def gap(self, method: Method, metric: str, control: Method | None = None) -> Stat | None:
        """Return the difference to a control, paired by seed, severities from 1 on.

        Without a ``control`` it is the strongest one.
        """
        control = control or self.control()
        if control is None:
            return None
        ours, theirs = (
            self._per_seed(m, self._shifts(), self.corruptions, metric) for m in (method, control)
        )
        return Stat.of(ours[seed] - theirs[seed] for seed in ours if seed in theirs)

    def leaking(self) -> dict[str, float]:
        """Return the activations whose frozen rows are not those of single samples, and the gap.

        The gap is the largest change of a logit when an image is predicted without neighbours.
        """
        gaps: dict[str, float] = {}
        for cell, notes in self.results.cells.items():
            name, gap = cell.rpartition("/")[0], notes["single_sample_gap"]
            if not gap <= _ROUNDING:  # also true for NaN
                gaps[name] = max(gap, gaps.get(name, 0.0))
        return gaps

    def costs(self, activation: str) -> dict[str, Any]:
        """Return an activation's :mod:`qact.bench.measure.cost`, medians over seeds; or nothing."""
        cells = [self.results.cells.get(f"{activation}/{seed}", {}) for seed in self.seeds]
        found = [cell["costs"] for cell in cells if "costs" in cell]
        if not found:
            return {}
        single = {k: median(c[k] for c in found) for k in found[0] if k != "predict_ms"}
        names = found[0]["predict_ms"]
        predicted = {
            name: median(c["predict_ms"][name] for c in found if name in c["predict_ms"])
            for name in names
        }
        return single | {"predict_ms": predicted}

    def bins(self, method: Method, severity: int) -> list[tuple[int, float, float]]:
        """Return (count, confidence, accuracy) per bin, pooled over corruptions and seeds."""
        rows = [
            row["bins"]
            for (act, adaptation, _, level, _), row in self._rows.items()
            if (act, adaptation) == method and level == severity
        ]
        pooled: list[tuple[int, float, float]] = []
        for k in range(len(rows[0]["count"]) if rows else 0):
            count = sum(bins["count"][k] for bins in rows)
            confidence, hit = (
                sum(bins["count"][k] * bins[name][k] for bins in rows) / max(count, 1)
                for name in ("confidence", "accuracy")
            )
            pooled.append((count, confidence, hit))
        return pooled

    def risk(self, method: Method, severity: int) -> list[float] | None:
        """Return the mean error rate at each coverage; None for rows of an older bench."""
        rows = [
            row.get("risk")
            for (act, adaptation, _, level, _), row in self._rows.items()
            if (act, adaptation, level) == (*method, severity)
        ]
        known = [risk for risk in rows if risk is not None]
        if not known or len(known) < len(rows):
            return None
        return [fmean(column) for column in zip(*known, strict=True)]

    def _shifts(self) -> list[int]:
        return [severity for severity in self.severities if severity > 0]

    def _per_seed(
        self, method: Method, severities: list[int], corruptions: Iterable[str], metric: str
    ) -> dict[int, float]:
        cells = [(c, s) for s in severities for c in (corruptions if s else ("none",))]
        values = {}
        for seed in self.seeds:
            rows = [self._rows.get((*method, corruption, s, seed)) for corruption, s in cells]
            if rows and all(rows):
                values[seed] = fmean(row[metric] for row in rows if row is not None)
        return values
