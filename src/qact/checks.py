"""Options, checked where they are given: an error repeats the value and says what is right."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def integer(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an int of at least ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be an integer")
    if least is not None and value < least:
        raise ValueError(f"{name}={value!r} must be at least {least}")
    return int(value)


def number(name: str, value: Any, valid: str, low: float, high: float = math.inf) -> float:
    """``value`` as a finite float in ``(low, high]``; ``valid`` says so in words."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be {valid}")
    if not (math.isfinite(value) and low < float(value) <= high):
        raise ValueError(f"{name}={value!r} must be {valid}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be True or False")
    return value


def choice(name: str, value: Any, known: tuple[object, ...]) -> Any:
    """``value`` if it is one of ``known``."""
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {known}")
    return value
