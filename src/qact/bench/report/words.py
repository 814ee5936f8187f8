"""How many there are of something, in words: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence


def counted(things: Sequence[object], what: str) -> str:
    """Return how many there are.

    Example:
        >>> counted([0], "seed"), counted(["fog", "snow"], "corruption")
        ('one seed', '2 corruptions')
    """
    return f"one {what}" if len(things) == 1 else f"{len(things)} {what}s"


def seeds(least: int, most: int) -> str:
    """Return over how many seeds numbers were measured.

    Example:
        >>> seeds(1, 1), seeds(3, 3), seeds(2, 3)
        ('one seed', '3 seeds', '2 to 3 seeds')
    """
    return counted(range(most), "seed") if least == most else f"{least} to {most} seeds"


def spread(least: int, most: int) -> str:
    """Return what stands behind a number.

    Example:
        >>> spread(1, 1), spread(3, 3)
        ('one seed', 'mean±sd of 3 seeds')
    """
    return f"mean±sd of {seeds(least, most)}" if most > 1 else seeds(least, most)
