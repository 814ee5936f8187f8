"""Options, checked where they are given: an error repeats the value and says what is right."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def reason(error: BaseException) -> str:
    """Why a file could not be read or written, in words: no error number, no advice to unpickle.

    Example:
        >>> reason(FileNotFoundError(2, "No such file or directory", "x.npz"))
        'x.npz: no such file or directory'
        >>> reason(ValueError("Cannot load file containing pickled data when allow_pickle=False"))
        'no plain arrays; Python objects (pickles) are never loaded'
    """
    if "allow_pickle" in str(error):
        return "no plain arrays; Python objects (pickles) are never loaded"
    inner = getattr(error, "reason", None)  # of urllib's URLError
    if isinstance(inner, BaseException):
        return reason(inner)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[0].lower() + error.strerror[1:]
        return text if error.filename is None else f"{error.filename}: {text}"
    return str(error) or type(error).__name__


def room(what: str, count: int) -> None:
    """Refuse ``count`` bytes that this machine's memory could not hold.

    Example:
        >>> room("size=100000", 10**15)
        Traceback (most recent call last):
        ValueError: size=100000 needs 1,000,000 GB of memory, this machine has ... GB
    """
    try:
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return
    if count > have:
        raise ValueError(
            f"{what} needs {count / 1e9:,.0f} GB of memory, this machine has {have / 1e9:,.0f} GB"
        )


def shown(value: Any) -> str:
    """``repr(value)`` for an error: on one line, and no longer than 300 characters.

    Example:
        >>> import numpy as np
        >>> shown(np.zeros((64, 3)))
        'ndarray of shape (64, 3)'
        >>> len(shown("x" * 10_000))
        300
    """
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def integer(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an int of at least ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)} must be an integer")
    if least is not None and value < least:
        raise ValueError(f"{name}={shown(value)} must be at least {least}")
    return int(value)


def number(name: str, value: Any, valid: str, low: float, high: float = math.inf) -> float:
    """``value`` as a finite float in ``(low, high]``; ``valid`` says so in words."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)} must be {valid}")
    if not (math.isfinite(value) and low < float(value) <= high):
        raise ValueError(f"{name}={shown(value)} must be {valid}")
    return float(value)


def within(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """``value`` as a float in ``[low, high)``."""
    valid = f"a number in [{low:g}, {high:g})"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)} must be {valid}")
    if not low <= float(value) < high:
        raise ValueError(f"{name}={shown(value)} must be {valid}")
    return float(value)


def unit(name: str, values: Any, slack: float = 0.0) -> None:
    """Refuse a tensor or an array of numbers outside [0, 1], or that are none; say which.

    Example:
        >>> import numpy as np
        >>> unit("probs", np.array([0.5, np.nan, 2.0]))
        Traceback (most recent call last):
        ValueError: probs must lie in [0, 1], got nan (2 of 3 values do not)
    """
    fine = (values >= 0) & (values <= 1 + slack)
    if not fine.all():
        wrong = values[~fine]
        raise ValueError(
            f"{name} must lie in [0, 1], got {float(wrong[0]):.6g} "
            f"({len(wrong):,} of {math.prod(values.shape):,} values do not)"
        )


def distinct(name: str, values: Sequence[object]) -> None:
    """Refuse an empty list, and one with repetitions or with lists in it."""
    nested = any(isinstance(value, list | dict) for value in values)
    if nested or not values or len(set(values)) != len(values):
        raise ValueError(f"{name}={shown(values)} must be distinct and at least one")


def tensors(**given: Any) -> None:
    """Refuse what is no tensor, and say how it becomes one.

    torch is not imported for it: whatever has a ``device`` and a ``layout`` is a tensor.

    Example:
        >>> tensors(labels=[0, 1])
        Traceback (most recent call last):
        TypeError: labels must be a tensor, got list; torch.as_tensor(labels) makes one
    """
    for name, value in given.items():
        if not (hasattr(value, "device") and hasattr(value, "layout")):
            raise TypeError(
                f"{name} must be a tensor, got {type(value).__name__}; "
                f"torch.as_tensor({name}) makes one"
            )


def instance(name: str, value: Any, kind: type | tuple[type, ...], means: str) -> None:
    """Refuse what is no ``kind``, and say what is.

    Example:
        >>> instance("rule", 3, str, "a str")
        Traceback (most recent call last):
        TypeError: rule=3 must be a str
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}={shown(value)} must be {means}")


def flag(name: str, value: Any) -> bool:
    """``value`` if it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)} must be True or False")
    return value


def choice(name: str, value: Any, known: tuple[object, ...]) -> Any:
    """``value`` if it is one of ``known``."""
    if getattr(value, "shape", ()) or value not in known:  # an array compares value by value
        raise ValueError(f"{name}={shown(value)} is unknown; choose one of {known}")
    return value
