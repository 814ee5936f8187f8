"""One page for a store: time lines, a map of layers over time, densities then and now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import torch

from qact import atomic
from qact.extras import needed
from qact.monitor import sketch
from qact.monitor.distance import Signal
from qact.monitor.parquet import Stored, StoreError
from qact.monitor.reference import Reference
from qact.monitor.store import Store
from qact.monitor.suggestion import Suggestion, suggest
from qact.monitor.window import Window

with needed("a report", "bench"):
    from markupsafe import Markup

    from qact.bench.report import figures
    from qact.bench.report.figures import MUTED, SERIES
    from qact.bench.report.html import style, templates

MOST = 120  # windows that are shown
LINES = 8  # signals in the time line, as there are colours
WIDTH = 4.2  # inches of a figure: the width of a phone, and half of a screen


@dataclass(frozen=True)
class Seen:
    """The latest windows of one model and version, oldest first.

    Args:
        windows: only the last of them can tell its contexts.
        distances: of each, by signal: as stored, or, where windows were merged, as they are now.
        reference: if one was kept.
        version: that was served last.
    """

    windows: list[Stored]
    distances: list[dict[str, float | None]]
    reference: Reference | None
    version: str

    @classmethod
    def of(cls, store: Store, most: int = MOST) -> Seen:
        """The last ``most`` windows of the version that was served last.

        Raises:
            StoreError: the store is empty or damaged.
        """
        while True:
            try:
                return cls._read(store, most)
            except FileNotFoundError:  # merged meanwhile
                continue

    @classmethod
    def _read(cls, store: Store, most: int) -> Seen:
        windows: list[Stored] = []
        distances = []
        for one in store.newest():
            last = windows[0] if windows else one
            if not windows:
                reference = store.reference(one.model, one.version)
            if (one.model, one.version) == (last.model, last.version):
                distances.append(_distances(one, reference))
                windows.append(one.light() if windows else one)
            if len(windows) == most:
                break
        if not windows:
            raise StoreError(f"{store.folder} has no windows yet")
        return cls(windows[::-1], distances[::-1], reference, last.version)

    @property
    def signals(self) -> list[str]:
        """Their names, in order."""
        return list(self.windows[-1].distances)

    def times(self) -> list[datetime]:
        """When each window began."""
        return [datetime.fromtimestamp(one.start, timezone.utc) for one in self.windows]

    def suggestion(self, rate: float) -> Suggestion | None:
        """What to do about the latest window, if it was tested."""
        latest = self.windows[-1]
        verdict = latest.verdict
        return (
            None if verdict is None else suggest(verdict, latest.window, self.reference, rate=rate)
        )

    def alarms(self, rate: float) -> int:
        """How many of the windows that were tested are alarms at this rate."""
        return sum(one.p is not None and one.p <= rate for one in self.windows)


def write_report(store: Store | str | Path, path: str | Path, *, rate: float = 0.01) -> Path:
    """Write the page of a store; everything is in the one file.

    Raises:
        StoreError: the folder is no store, is empty, or damaged.
    """
    opened = store if isinstance(store, Store) else Store(store, create=False)
    atomic.write(Path(path), render(Seen.of(opened), rate).encode())
    return Path(path)


def render(seen: Seen, rate: float) -> str:
    """The page as text."""
    latest = seen.windows[-1]
    known = seen.reference is not None
    return (
        templates("qact.monitor")
        .get_template("monitor.html")
        .render(
            style=Markup(style()),
            title=f"Monitor: {seen.version or 'model'}",
            seen=seen,
            rate=f"{rate:g}",
            images=sum(one.images for one in seen.windows),
            passed=sum(one.seen for one in seen.windows),
            broken=sum(one.broken for one in seen.windows),
            machines=sorted({one.machine for one in seen.windows}),
            span=[f"{moment:%Y-%m-%d %H:%M} UTC" for moment in (seen.times()[0], seen.times()[-1])],
            tested=sum(one.p is not None for one in seen.windows),
            alarms=seen.alarms(rate),
            p=None if latest.p is None else f"{latest.p:.2g}",
            suggestion=seen.suggestion(rate),
            rows=_rows(seen),
            lines=Markup(_lines(seen, rate)) if known else None,
            map=Markup(_map(seen)) if known else None,
            densities=_densities(seen) if known and latest.images else (),
        )
    )


def _distances(one: Stored, reference: Reference | None) -> dict[str, float | None]:
    if reference is None or one.p is not None or not one.images:
        return dict(one.distances)
    return {name: float(d.mean()) for name, d in reference.distances(one.window).items()}


def _rows(seen: Seen) -> list[list[str]]:
    """The latest window, signal by signal."""
    latest, distances = seen.windows[-1], seen.distances[-1]
    channels, rows = latest.window.signals, []
    for name in seen.signals:
        p, distance = latest.p_values.get(name), distances.get(name)
        shown = ["–" if v is None else f"{v:.3g}" for v in (distance, p)]
        rows.append([name, str(channels[name]), *shown])
    return rows


def _lines(seen: Seen, rate: float) -> str:
    """Distance of each signal, and the p-value of the window, over time."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    times, distances = seen.times(), seen.distances
    spread = sorted(seen.signals, key=lambda n: -(distances[-1].get(n) or 0.0))[:LINES]

    def draw(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        for index, name in enumerate(n for n in seen.signals if n in spread):
            known = [(t, d[name]) for t, d in zip(times, distances, strict=True) if d.get(name)]
            label = short(name)
            figures.line(upper, [t for t, _ in known], [v or 0.0 for _, v in known], index, label)
        upper.set_ylabel("distance")
        upper.set_ylim(bottom=0)
        tested = [(t, o.p) for t, o in zip(times, seen.windows, strict=True) if o.p is not None]
        lower.plot([t for t, _ in tested], [p for _, p in tested], ".-", color=MUTED, linewidth=1)
        fired = [(t, p) for t, p in tested if p <= rate]
        lower.plot([t for t, _ in fired], [p for _, p in fired], "o", color=SERIES[0])
        lower.axhline(rate, color=SERIES[0], linestyle="--", linewidth=1)
        lower.set_yscale("log")
        lower.set_ylabel("p")
        if times[0] == times[-1]:  # a single window: a minute around it, not years
            lower.set_xlim(times[0] - timedelta(minutes=1), times[0] + timedelta(minutes=1))
        ticks = AutoDateLocator(minticks=2, maxticks=6)
        lower.xaxis.set_major_locator(ticks)
        lower.xaxis.set_major_formatter(ConciseDateFormatter(ticks))
        figures.legend(figure, upper)

    return figures.drawn_as_svg(draw, (WIDTH, 4.0), "Distance of signals and p-value over time")


def _map(seen: Seen) -> str:
    """Signals by windows; the darker a cell, the larger the distance."""
    from matplotlib.patches import Rectangle

    distances, names = seen.distances, seen.signals
    most = max((v or 0.0 for row in distances for v in row.values()), default=0.0) or 1.0

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for x, row in enumerate(distances):
            for y, name in enumerate(names):
                share = (row.get(name) or 0.0) / most
                cell = Rectangle((x, y), 1, 1, facecolor=SERIES[0], alpha=share, linewidth=0)
                axes.add_patch(cell)
        axes.set(xlim=(0, len(distances)), ylim=(len(names), 0), xlabel="window, oldest first")
        axes.set_yticks([y + 0.5 for y in range(len(names))], [short(name) for name in names])
        axes.grid(False)

    size = (WIDTH, 0.9 + 0.26 * len(names))
    return figures.drawn_as_svg(draw, size, "Distance of every signal in every window")


def _densities(seen: Seen) -> list[Markup]:
    """The channel of each signal that has moved most: the reference, and the latest window."""
    reference, window = seen.reference, seen.windows[-1].window
    assert reference is not None
    gaps, found = reference.distances(window), []
    for name, signal in reference.signals.items():
        channel = int(signal.channels[int(gaps[name].argmax())])

        def draw(figure: Any, name: str = name, signal: Signal = signal, c: int = channel) -> None:
            axes = figure.subplots()
            _density(axes, signal, window, name, c)
            axes.set_title(f"{short(name)} [{c}]", loc="left")

        title = f"Densities of {name}, reference and latest window"
        found.append(Markup(figures.drawn_as_svg(draw, (WIDTH / 2, 1.6), title)))
    return found


def _density(axes: Any, signal: Signal, window: Window, name: str, channel: int) -> None:
    """Both on the same 48 cells between the extreme edges of either."""
    both = signal.histogram, window.histograms[name]
    contexts = [sketch.context(one) for one in both]
    ends = torch.stack(
        [c.quantile(torch.tensor([0.001, 0.999], dtype=torch.float32))[channel] for c in contexts]
    )
    low, high = float(ends.amin()), float(ends.amax())
    edges = torch.linspace(low, high if high > low else low + 1, 49, dtype=torch.float32)
    grid = edges[:, None].expand(-1, len(signal.histogram.mass))
    width = float(edges[1] - edges[0])
    for index, context in enumerate(contexts):
        rank = context.cdf(grid.contiguous())[:, channel]
        axes.stairs((rank.diff() / width).tolist(), edges.tolist(), fill=index == 0,
                    color=MUTED if index == 0 else SERIES[0], alpha=0.35 if index == 0 else 1.0,
                    linewidth=1.4)  # fmt: skip
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)


def short(name: str) -> str:
    """A name that a figure has room for: words between dots are cut alike, numbers stay."""
    for letters in range(len(name), 0, -1):
        parts = (part if part.isdigit() else part[:letters] for part in name.split("."))
        if len(short := ".".join(parts)) <= 20:
            return short
    return short
