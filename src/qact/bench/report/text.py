"""Numbers and counts as people read them: on a terminal, on the page, and in captions."""

from __future__ import annotations

from collections.abc import Sequence

from qact.bench.report.summary import Stat

MISSING = "–"
MINUS = "\N{MINUS SIGN}"  # as long as the plus


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


def fixed(value: float | None, digits: int) -> str:
    """Return a number, or a dash for what is not measured."""
    return MISSING if value is None else f"{value:.{digits}f}"


def shown(stat: Stat | None, scale: float = 1.0, digits: int = 1) -> str:
    """Return ``mean±sd``, ``mean`` for a single seed, or a dash for what is not measured.

    Example:
        >>> shown(Stat(0.9731, 0.0042, 3), scale=100)
        '97.3±0.4'
    """
    if stat is None:
        return MISSING
    sd = "" if stat.sd is None else f"±{scale * stat.sd:.{digits}f}"
    return f"{scale * stat.mean:.{digits}f}{sd}"


def points(gap: Stat | None) -> str:
    """Return points with half of their 95% interval.

    Example:
        >>> points(Stat(0.1, 0.01, 3)), points(Stat(-0.1, None, 1))
        ('+10.0±2.5', '-10.0')
    """
    if gap is None:
        return MISSING
    half = gap.half()
    return f"{100 * gap.mean:+.1f}" + ("" if half is None else f"±{100 * half:.1f}")


def signed(share: float) -> str:
    """Return a share as points with its sign.

    Example:
        >>> signed(0.0123)
        '+1.2'
    """
    return f"{100 * share:+.1f}".replace("-", MINUS)


def interval(gap: Stat) -> str:
    """Return the 95% interval of points, or a dash for a single seed."""
    ends = gap.interval()
    return MISSING if ends is None else " to ".join(map(signed, ends))
