"""Rivals in turn, as ratios to a control; and when another load leaves no ratios to print.

One protocol: every rival is warmed up, then all run in turn, A B C A B C, in one process; a ratio
is the median over rounds of a rival's time to the control's in the same round. The control also
tells what else ran on the machine: alone it takes the same time in every round, and, on one thread,
no more time by the clock than the processor spent on it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Work = Callable[[], object]
LIMIT = 0.3  # so much of the control's time may be another load's
SHORTEST = 1e-2  # seconds: what takes less is repeated in a round, beyond a scheduler's slice
ADVICE = (
    "another load: rounds take {:.0%} longer than they need (the control {:.4g} to {:.4g} ms), so "
    "there are no ratios. Stop what else runs here (see top), then give the same command: what is "
    "recorded stays, what was disturbed is measured again."
)


class Times(NamedTuple):
    """Seconds of one call in every round: by the clock, and of the processor."""

    wall: list[float]
    spent: list[float]


def in_turn(works: dict[str, Work], seconds: float, most: int = 50) -> dict[str, Times]:
    """Time rounds A B C A B C, at least three, as many as the budget allows."""
    repeats = {}
    for name, work in works.items():
        work()  # compiles, and warms up
        once = min(timed(work, 1)[0] for _ in range(2))
        repeats[name] = math.ceil(SHORTEST / once) if once < SHORTEST else 1
    found = {name: Times([], []) for name in works}
    begin, rounds = time.perf_counter(), 0
    while rounds < 3 or (rounds < most and time.perf_counter() - begin < seconds):
        for name, work in works.items():
            wall, spent = timed(work, repeats[name])
            found[name].wall.append(wall)
            found[name].spent.append(spent)
        rounds += 1
    return found


def timed(work: Work, repeats: int) -> tuple[float, float]:
    """Seconds of one call, by the clock and of this process on all of its threads."""
    begin, spent = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - begin) / repeats, (time.process_time() - spent) / repeats


def disturbance(found: dict[str, Times], threads: int) -> float:
    """What another load takes, as a share of the time that is needed: zero on a quiet machine.

    The control's median round is held against its fastest. A load that never stops slows every
    round alike; on one thread the clock shows it, which runs while the processor works for another,
    for every rival. (Threads that wait for one another spin, so the processor time of several says
    nothing.)

    >>> disturbance({"control": Times([1.0, 1.0, 1.3], [1.0, 1.0, 1.0])}, threads=2)
    0.0
    >>> disturbance({"control": Times([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])}, threads=1)
    1.0
    """
    control = next(iter(found.values())).wall
    shares = [statistics.median(control) / min(control)]
    if threads == 1:
        shares += [statistics.median(t.wall) / statistics.median(t.spent) for t in found.values()]
    return max(0.0, max(shares) - 1)


def rows_of(found: dict[str, Times], threads: int) -> list[Row]:
    """Milliseconds of every rival; ratios to the first with quartiles, unless it was disturbed."""
    control = next(iter(found.values()))
    disturbed = disturbance(found, threads)
    rows = []
    for name, times in found.items():
        row: Row = {"rival": name, "ms": _short(1e3 * statistics.median(times.wall))}
        if disturbed <= LIMIT:
            ratios = [a / b for a, b in zip(times.wall, control.wall, strict=True)]
            low, row["ratio"], high = (_short(q) for q in statistics.quantiles(ratios, n=4))
            row["quartiles"] = [low, high]
        else:
            row["spread_ms"] = [_short(1e3 * end) for end in (min(times.wall), max(times.wall))]
        rows.append(row | {"rounds": len(times.wall), "disturbed": _short(disturbed)})
    return rows


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def refusal(rows: list[Row]) -> str | None:
    """What to say in the place of ratios, where the control was disturbed."""
    control = rows[0]
    if control.get("disturbed", 0) <= LIMIT:
        return None
    return ADVICE.format(control["disturbed"], *control["spread_ms"])


class Record:
    """Rows by part in a JSON file, written as they come.

    What an interrupted or disturbed run has left to do is done when it is started again; rows of
    another commit than that of ``about`` are replaced, part by part.
    """

    def __init__(self, path: Path, about: Row | None = None) -> None:
        self.path = path
        self.parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.about = about or self.parts.get("about", {})

    def rows(self, part: str) -> list[Row]:
        """The rows of a part."""
        return self.parts.get(part, [])

    def has(self, part: str, key: Row) -> bool:
        """Whether a table was measured for this build, undisturbed."""
        same = [row for row in self.rows(part) if self._of(row, key)]
        whole = [row for row in same if row.get("disturbed", 0) <= LIMIT]
        return bool(same) and same == [r for r in whole if r["commit"] == self.about["commit"]]

    def put(self, part: str, key: Row, rows: Iterable[Row]) -> None:
        """Put the rows of a table in the place of its old ones, and write the file whole."""
        mine = [row for row in self.rows(part) if row["commit"] == self.about["commit"]]
        kept = [row for row in mine if not self._of(row, key)]
        new = [key | row | {"commit": self.about["commit"]} for row in rows]
        self.parts = {**self.parts, "about": self.about, part: kept + new}
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.parts, indent=1) + "\n")
        os.replace(aside, self.path)

    @staticmethod
    def _of(row: Row, key: Row) -> bool:
        return all(row.get(name) == value for name, value in key.items())
