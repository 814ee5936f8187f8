"""Methods by streams: what every adaptation reaches on every stream, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from qact.bench.measure.metrics import Row
from qact.bench.recipe.adaptations import Adaptation, parse_adaptation
from qact.bench.recipe.recipe import network
from qact.bench.recipe.shift import STREAMS, Shift
from qact.bench.report.summary import Stat, Summary
from qact.bench.store.results import Results

BASES = ("source", "frozen")  # what a gap is taken to: a network that is not adapted
_FIRST = (*BASES, "batch", "mixed", "recalibrated")


@dataclass(frozen=True)
class Column:
    """A stream, its batch size (None: batches have no meaning), and what it was measured under."""

    stream: str
    batch: int | None
    shift: Shift

    @property
    def name(self) -> str:
        """As ``"sorted-64"``."""
        return self.stream if self.batch is None else f"{self.stream}-{self.batch}"


class Streamed:
    """Rows of the shifts that have several streams, or a method of :mod:`qact.adapt`.

    A mean exists for a seed only if all its conditions were measured.
    """

    def __init__(self, results: Results) -> None:
        self.seeds = results.recipe.seeds
        shifts = {shift.images: shift for shift in reversed(results.recipe.shifts())}
        rows = [row for row in results.rows if row["images"] in shifts]
        shown = {images for images in shifts if _asks(r for r in rows if r["images"] == images)}
        self._rows: dict[tuple[object, ...], Row] = {}
        columns: set[Column] = set()
        for row in (row for row in rows if row["images"] in shown):
            kind = _parsed(row["adaptation"])
            column = Column(row["stream"], kind.batch, shifts[row["images"]])
            columns.add(column)
            condition = (row["corruption"], row["severity"], row["seed"])
            self._rows[network(row["activation"], row["loss"]), kind.kind, column, condition] = row
        self.networks = list(dict.fromkeys(str(key[0]) for key in self._rows))
        self.methods = sorted({str(key[1]) for key in self._rows}, key=_place)
        self.columns = _ordered(columns)

    def stat(self, name: str, method: str, column: Column, metric: str) -> Stat | None:
        """Return a metric of a network with a method, the mean over conditions."""
        return Stat.of(self._per_seed(name, method, column, metric).values())

    def gap(self, name: str, method: str, column: Column) -> Stat | None:
        """Return the difference in accuracy to the network that is not adapted, paired by seed."""
        for base in BASES:
            theirs = self._per_seed(name, base, column, "accuracy")
            if theirs:
                ours = self._per_seed(name, method, column, "accuracy")
                return Stat.of(ours[seed] - theirs[seed] for seed in ours if seed in theirs)
        return None

    def _per_seed(self, name: str, method: str, column: Column, metric: str) -> dict[int, float]:
        if method == "frozen":  # the same in batches of any size
            column = Column(column.stream, None, column.shift)
        conditions = column.shift.conditions(column.stream)
        shifted = [c for c in conditions if c[1] > 0] or conditions
        values = {}
        for seed in self.seeds:
            rows = [self._rows.get((name, method, column, (*c, seed)), {}) for c in shifted]
            if rows and all(metric in row for row in rows):
                values[seed] = fmean(row[metric] for row in rows)
        return values


def legend(streamed: Streamed) -> str:
    """Return what the numbers are means of."""
    parts = []
    for images in dict.fromkeys(column.shift.images for column in streamed.columns):
        mine = [column for column in streamed.columns if column.shift.images == images]
        shift = mine[0].shift
        levels = [s for s in shift.severities if s > 0] or [0]
        severity = f"severity {', '.join(map(str, levels))}"
        which = "all test images" if images is None else f"the first {images} test images"
        parts.append(
            f"{', '.join(column.name for column in mine)}: {len(shift.corruptions)} corruptions, "
            f"{severity}, {which}"
        )
    first = streamed.columns[0].name
    interval = (
        " Points: paired by seed, ± half of the 95% interval (Student's t)."
        if len(streamed.seeds) > 1
        else ""
    )
    return (
        f"{'; '.join(parts)}. A stream's name and its batch size. ECE, processor ms per batch and "
        f"KiB kept from batch to batch: {first}.{interval}"
    )


def over_severity(summary: Summary, streamed: Streamed) -> bool:
    """Whether there is something to show over severity that the table of streams has not."""
    return bool(summary.methods) and (len(summary.severities) > 1 or not streamed.columns)


@lru_cache(maxsize=1024)
def _parsed(adaptation: str) -> Adaptation:
    return parse_adaptation(adaptation)


def _asks(rows: Iterable[Row]) -> bool:
    """Whether rows are more than one stream of the bench's own adaptations."""
    found = list(rows)
    methods = any(_parsed(row["adaptation"]).context is None for row in found)
    return methods or len({row["stream"] for row in found}) > 1


def _place(method: str) -> tuple[int, str]:
    return (_FIRST.index(method) if method in _FIRST else len(_FIRST), method)


def _ordered(columns: set[Column]) -> list[Column]:
    """Return the columns, the most usual batch size first; one without a size only if alone."""
    sized = {(c.stream, c.shift) for c in columns if c.batch is not None}
    kept = [c for c in columns if c.batch is not None or (c.stream, c.shift) not in sized]
    sizes = [column.batch for column in kept]
    usual = max(sizes, key=lambda size: (sizes.count(size), size or 0), default=None)
    return sorted(kept, key=lambda c: (c.batch != usual, c.batch or 0, STREAMS.index(c.stream)))
