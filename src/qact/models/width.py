"""Channels of a network made wider or narrower, and the numbers that must make sense."""

from __future__ import annotations

from qact import checks


def scaled(base: int, multiplier: float, of: int = 1) -> int:
    """Return ``base * multiplier`` channels, a whole multiple of ``of``.

    Raises:
        ValueError: nothing would be left, or ``multiplier`` is not a positive number.

    Example:
        >>> scaled(64, 0.25), scaled(192, 0.5, of=3)
        (16, 96)
    """
    multiplier = checks.number("width_multiplier", multiplier, "a number above 0", 0)
    width = round(base * multiplier / of) * of
    if width < 1:
        raise ValueError(f"width_multiplier {multiplier!r} leaves no channels of {base}")
    return width


def at_least_one(**numbers: int) -> None:
    """Raise ``ValueError`` for the first number below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number!r}")
