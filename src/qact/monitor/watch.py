"""The latest windows of a store in the terminal."""

from __future__ import annotations

import time
from pathlib import Path

from qact.extras import needed
from qact.monitor.report import Seen, short
from qact.monitor.store import Store
from qact.terminal import print_whole

with needed("watching a store", "bench"):
    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table

BARS = " ▁▂▃▄▅▆▇█"
SHOWN, FEWEST = 40, 10  # windows
BESIDE = 22  # columns of distance, p-value and what is between


def watch(folder: str | Path, *, rate: float = 0.01, every: float | None = 2.0) -> None:
    """Show a store and look again every so many seconds, or once if that is None.

    Raises:
        StoreError: the folder is no store, is empty, or damaged.
    """
    store, console = Store(folder, create=False), Console()
    if every is None:
        print_whole(view(Seen.of(store, SHOWN), rate, console.width), console)
        return

    def now() -> Table:
        return view(Seen.of(store, SHOWN), rate, console.width)

    with Live(now(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(now(), refresh=True)


def view(seen: Seen, rate: float, columns: int = 80) -> Table:
    """A table of signals: distance and p-value now, and a bar for each of the latest windows.

    In less than 80 columns there are fewer bars, those of the latest windows.
    """
    names = [short(name) for name in seen.signals]
    room = columns - max(map(len, ("signal", *names))) - BESIDE
    latest, history = seen.windows[-1], seen.distances[-max(FEWEST, min(SHOWN, room)) :]
    p = "not tested" if latest.p is None else f"p = {latest.p:.2g}"
    standing = latest.p is not None and latest.p <= rate
    state = "[bold red]alarm[/]" if standing else "sound" if latest.p is not None else ""
    suggestion = seen.suggestion(rate)
    table = Table(
        title=f"{seen.times()[-1]:%Y-%m-%d %H:%M:%S} UTC  {p}  {state}",
        caption=f"{suggestion.action}: {escape(suggestion.reason)}" if suggestion else None,
        box=None,
        pad_edge=False,
    )
    table.add_column("signal", no_wrap=True)
    for head in ("distance", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column(f"{len(history)} windows", no_wrap=True)
    most = max((v or 0.0 for row in history for v in row.values()), default=0.0) or 1.0
    for name, shown in zip(seen.signals, names, strict=True):
        own, value = latest.p_values.get(name), history[-1].get(name)
        cells = ["–" if v is None else f"{v:.3f}" for v in (value, own)]
        bars = "".join(BARS[round(8 * (row.get(name) or 0.0) / most)] for row in history)
        table.add_row(escape(shown), *cells, bars)
    return table
