"""What can go wrong in a way that the person at the keyboard can put right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qact.files import DamagedFileError, ReportedError, StorageError

__all__ = [
    "BenchError",
    "CellError",
    "DamagedFileError",
    "RecipeError",
    "StorageError",
    "refusing",
]


BenchError = ReportedError


class RecipeError(BenchError, ValueError):
    """A recipe, name or number that the bench cannot work with."""


@contextmanager
def refusing(section: str) -> Iterator[None]:
    """Make what :mod:`qact.checks` and the registries refuse errors of a section of a recipe.

    Example:
        >>> with refusing("training"):
        ...     raise ValueError("lr=-1 must be a positive number")
        Traceback (most recent call last):
        qact.bench.errors.RecipeError: training: lr=-1 must be a positive number
    """
    try:
        yield
    except RecipeError:
        raise
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{section}: {error}") from error


class CellError(BenchError):
    """Some cells of the grid failed; the rows of the others are written."""
