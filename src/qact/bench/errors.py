"""What can go wrong in a way that the person at the keyboard can put right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BenchError(Exception):
    """Base of the errors that the command line prints as one line instead of a traceback."""


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


class DamagedFileError(BenchError):
    """A results file or checkpoint that cannot be read; it is never overwritten."""


class StorageError(BenchError, OSError):
    """A file that cannot be written, on a full disk for example; the old one is kept."""

    def __str__(self) -> str:
        return str(self.strerror)


class CellError(BenchError):
    """Some cells of the grid failed; the rows of the others are written."""
