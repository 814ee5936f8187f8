"""Tables on a terminal that may be narrower than they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_whole(table: Table, console: Console) -> None:
    """Print a table whole: where its cells do not fit the terminal, in lines that do not either.

    Rich would cut cells to the width, and half a number is a wrong one.
    """
    room = console.options.update(max_width=10_000)
    for column in table.columns:
        if column.no_wrap:  # which Rich leaves out where it asks how narrow a table may be
            cells = (column.header, *column.cells)
            wide = (console.measure(cell, options=room).maximum for cell in cells)
            column.min_width = max(column.min_width or 0, *wide)
        else:
            column.overflow = "fold"
    least = console.measure(table, options=room).minimum
    if least > console.width:
        table.width = least
    console.print(table, crop=False)
