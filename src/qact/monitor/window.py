"""`Window`: what a stretch of a stream has shown, signal by signal; windows add up exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.context import Context
from qact.monitor import sketch
from qact.monitor.grouping import Grouping
from qact.monitor.sketch import Frame
from qact.rank.grid import union
from qact.rank.histogram import Histogram

CHUNK = 128  # images whose values wait to be counted: the bound on memory


@dataclass(frozen=True)
class Window:
    """One stretch of a stream: a context per signal, and what was counted.

    Args:
        histograms: by signal, of the values of ``images``.
        images: sampled, finite in every signal, and counted.
        seen: passed by in the same time.
        broken: sampled images of which some signal was not finite; they are left out.
        start: seconds since 1970 (UTC), of the machine's clock.
        end: ``start`` and the seconds of a clock that never steps back.
        version: of the model, a user's word; several are joined by commas.
        machine: that served; several are joined by commas.
        calls: in which the ``seen`` images came.
        grouping: who came with whom; a sum of windows has none, nor has one that was stored.

    Example:
        >>> frame = Frame.around(torch.randn(8, 1, 1))
        >>> a, b = (Window({"x": sketch.sketch(torch.randn(8, 1, 1), frame)}, 8) for _ in "ab")
        >>> (a + b).images, int((a + b).context("x").count)
        (16, 16)
    """

    histograms: Mapping[str, Histogram]
    images: int
    seen: int = 0
    broken: int = 0
    start: float = 0.0
    end: float = 0.0
    version: str = ""
    machine: str = ""
    calls: int = 0
    grouping: Grouping | None = field(default=None, compare=False, repr=False)

    @property
    def signals(self) -> dict[str, int]:
        """The signals with the channels of each."""
        return {name: len(found.mass) for name, found in self.histograms.items()}

    def context(self, signal: str) -> Context:
        """What ``signal`` looked like, as a context."""
        if signal not in self.histograms:
            raise ValueError(f"no signal {signal!r}; the window has {', '.join(self.histograms)}")
        return sketch.context(self.histograms[signal])

    def __add__(self, other: Window) -> Window:
        """Both stretches as one; in any order and grouping the same bits.

        Raises:
            ValueError: they are of different models.
        """
        if self.signals != other.signals:
            raise ValueError(
                f"windows of different models do not add up: {_shown(self)} and {_shown(other)}"
            )
        both = {
            name: sketch.merged(own, other.histograms[name])
            for name, own in self.histograms.items()
        }
        return Window(
            both,
            self.images + other.images,
            self.seen + other.seen,
            self.broken + other.broken,
            min(self.start, other.start),
            max(self.end, other.end),
            _joined(self.version, other.version),
            _joined(self.machine, other.machine),
            self.calls + other.calls,
        )


def total(windows: Iterable[Window]) -> Window:
    """Join them all to one.

    Raises:
        ValueError: there are none, or they are of different models. TypeError: these are none.
    """
    found = list(windows) if isinstance(windows, Iterable) else [windows]
    for one in found:
        if not isinstance(one, Window):
            raise TypeError(f"windows must be a list of windows, got {checks.shown(one)} in it")
    if not found:
        raise ValueError("there are no windows to add up")
    return reduce(Window.__add__, found)


def _joined(a: str, b: str) -> str:
    return ",".join(sorted({*a.split(","), *b.split(",")} - {""}))


def _shown(window: Window) -> str:
    return ", ".join(f"{name} ({channels})" for name, channels in window.signals.items())


@dataclass
class Open:
    """A window that still counts: rows wait in ``pending`` until there are `CHUNK`.

    Not for several threads at once; the monitor has a lock.
    """

    frames: dict[str, Frame]
    start: float
    histograms: dict[str, Histogram] = field(default_factory=dict)
    pending: list[dict[str, Tensor]] = field(default_factory=list)
    waiting: int = 0
    images: int = 0
    seen: int = 0
    broken: int = 0
    calls: int = 0
    grouping: Grouping = field(default_factory=Grouping)

    @property
    def size(self) -> int:
        """Images taken in, broken ones too."""
        return self.images + self.broken

    def add(self, rows: dict[str, Tensor]) -> None:
        """Count rows (n, C, positions) by signal; one that is not finite anywhere is left out."""
        sound = torch.stack([torch.isfinite(z).flatten(1).all(1) for z in rows.values()]).all(0)
        good = int(sound.sum())
        self.broken += len(sound) - good
        if not good:
            return
        if good < len(sound):
            rows = {name: z[sound] for name, z in rows.items()}
        self._fit(rows)
        self.grouping.add(rows)
        self.images += good
        if self.waiting + good > CHUNK:
            self.flush()
        self.waiting += good
        self.pending.append(rows)

    def _fit(self, rows: dict[str, Tensor]) -> None:
        found = {name: z.shape[1] for name, z in rows.items()}
        known = {name: frame.channels for name, frame in self.frames.items()}
        if self.frames and found != known:
            raise ValueError(f"this call showed {found}; the monitor watches {known}")

    def flush(self) -> None:
        """Count what waits."""
        if not self.waiting:
            return
        parts = {n: [rows[n] for rows in self.pending] for n in self.pending[0]}
        self.pending, self.waiting = [], 0
        for name, part in parts.items():
            # Calls on images of other sizes may show fewer positions each.
            for z in [torch.cat(part)] if len({p.shape[2] for p in part}) == 1 else part:
                if name not in self.frames:
                    self.frames[name] = Frame.around(z)
                new = sketch.sketch(z, self.frames[name])
                old = self.histograms.get(name)
                self.histograms[name] = new if old is None else sketch.merged(old, new)

    def closed(self, end: float, version: str, machine: str) -> Window:
        """The window as it is now."""
        self.flush()
        order = {
            name: self.histograms.get(name) or sketch.nothing(frame)
            for name, frame in self.frames.items()
        }
        counts = (self.images, self.seen, self.broken)
        words = (version, machine)
        return Window(order, *counts, self.start, end, *words, self.calls, self.grouping)


def from_cells(
    channels: int, empty: Any, channel: Any, exponent: Any, cell: Any, mass: Any, moment: Any
) -> Histogram:
    """A histogram of cells ``cell * 2**exponent``, which are of one exponent in each channel.

    Args:
        channels: how many.
        empty: exponent and first cell of channels that have no cells.
        channel: of each cell.
        exponent: of each cell.
        cell: its number.
        mass: what it holds.
        moment: of what it holds.
    """
    channel, cell = (torch.as_tensor(part).long() for part in (channel, cell))
    wide, start = torch.tensor(empty).long().unbind(1)
    wide = wide.index_put((channel,), torch.as_tensor(exponent).long())
    far = torch.iinfo(torch.int64).max
    first = torch.full((channels,), far).scatter_reduce(0, channel, cell, "amin")
    last = torch.full((channels,), -far).scatter_reduce(0, channel, cell, "amax")
    some = first <= last
    first, last = torch.where(some, first, start), torch.where(some, last + 1, start)
    grid = union(wide.int(), first, last, wide.int(), first, last, sketch.BINS)
    halvings = (grid.exponent.long() - wide)[channel]
    target = cell >> halvings
    mass, moment = (torch.as_tensor(part).double() for part in (mass, moment))
    moment = (mass * (cell - (target << halvings)) + moment) * torch.exp2(-halvings.double())
    place = channel, target - grid.offset[channel]
    blank = torch.zeros(channels, sketch.BINS, dtype=torch.float64)
    masses, moments = (blank.index_put(place, part, accumulate=True) for part in (mass, moment))
    none = torch.zeros(channels, dtype=torch.float32)
    return Histogram(masses, moments, grid, none, none.clone())
