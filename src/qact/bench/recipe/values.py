"""Values of a recipe, checked where it is made; an error names the value and what is right."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite
from numbers import Integral, Real
from typing import Any

from qact.bench.errors import RecipeError


def whole(where: str, least: int, **numbers: Any) -> None:
    """Refuse what is no integer, or below ``least``."""
    for name, value in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise RecipeError(f"{where}.{name} must be an integer, got {value!r}")
        if value < least:
            bound = "positive" if least == 1 else f"at least {least}"
            raise RecipeError(f"{where}.{name} must be {bound}, got {value!r}")


def positive(where: str, **numbers: Any) -> None:
    """Refuse what is no finite number above 0."""
    for name, value in numbers.items():
        if not (_is_number(value) and value > 0):
            raise RecipeError(f"{where}.{name} must be positive, got {value!r}")


def within(where: str, low: float, high: float, **numbers: Any) -> None:
    """Refuse what is no number in ``[low, high)``."""
    for name, value in numbers.items():
        if not (_is_number(value) and low <= value < high):
            raise RecipeError(f"{where}.{name} must be in [{low:g}, {high:g}), got {value!r}")


def truth(where: str, **flags: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise RecipeError(f"{where}.{name} must be true or false, got {value!r}")


def one_of(name: str, value: Any, known: Collection[str]) -> None:
    """Refuse what is not one of ``known``."""
    if value not in known:
        raise RecipeError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def distinct(name: str, values: Sequence[object]) -> None:
    """Refuse an empty list, and one with repetitions or lists."""
    nested = any(isinstance(value, list | dict) for value in values)
    if nested or not values or len(set(values)) != len(values):
        raise RecipeError(f"{name} must be distinct and at least one, got {values!r}")


def difference(there: Any, here: Any, where: str = "") -> str:
    """Return where two nested dictionaries first differ, and how; empty if they do not.

    Example:
        >>> difference({"training": {"epochs": 6, "lr": 1}}, {"training": {"epochs": 7, "lr": 1}})
        'training.epochs: 6 there, 7 here'
    """
    if isinstance(there, dict) and isinstance(here, dict):
        names = dict.fromkeys((*here, *there))
        found = (difference(there.get(k), here.get(k), f"{where}.{k}".lstrip(".")) for k in names)
        return next(filter(None, found), "")
    return "" if there == here else f"{where}: {there!r} there, {here!r} here"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
