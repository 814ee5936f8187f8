"""Methods by streams for the terminal, 80 columns wide: as many blocks as that takes."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qact.bench.report.stat import Stat
from qact.bench.report.streams import BASES, Column, Streamed
from qact.bench.report.terminal import shown
from qact.bench.report.words import spread

Cells = tuple[str, list[str]]  # heading, one cell per method


def print_streams(streamed: Streamed, console: Console) -> None:
    """Print accuracy, costs, and the gaps to the network that is not adapted."""
    if not streamed.columns:
        return
    for name in streamed.networks:
        console.print()
        console.print(Text(f"Accuracy, %, by stream: {name}{_spread(streamed)}", style="bold"))
        columns = [[_column(streamed, name, column)] for column in streamed.columns]
        _print_blocks(streamed.methods, [*columns, _costs(streamed, name)], console)
        gaps = [_gaps(streamed, name, column) for column in streamed.columns]
        if any(set(cells) - {"–"} for _, cells in gaps):
            console.print(Text(f"{name}: points against the network as trained", style="bold"))
            others = [method for method in streamed.methods if method not in BASES]
            _print_blocks(others, [[cells] for cells in gaps], console)
    console.print(Text(legend(streamed), style="dim"))


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


def points(gap: Stat | None) -> str:
    """Return points with half of their 95% interval.

    Example:
        >>> points(Stat(0.1, 0.01, 3)), points(Stat(-0.1, None, 1))
        ('+10.0±2.5', '-10.0')
    """
    if gap is None:
        return "–"
    width = gap.half()
    return f"{100 * gap.mean:+.1f}" + ("" if width is None else f"±{100 * width:.1f}")


def _spread(streamed: Streamed) -> str:
    seeds = len(streamed.seeds)
    return f"; {spread(seeds, seeds)}"


def _column(streamed: Streamed, name: str, column: Column) -> Cells:
    found = [streamed.stat(name, method, column, "accuracy") for method in streamed.methods]
    return _heading(column), [shown(stat, 100) for stat in found]


def _gaps(streamed: Streamed, name: str, column: Column) -> Cells:
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
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("", no_wrap=True)
        for heading, _ in block:
            table.add_column(heading, justify="right", no_wrap=True)
        for index, method in enumerate(methods):
            style = "yellow" if method in BASES else ""
            table.add_row(Text(method), *(cells[index] for _, cells in block), style=style)
        console.print(table)
