"""Packages that may be missing: what needs one says which extra brings it, and what to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_OWN = ("", "qact", "torch", "numpy")  # broken rather than missing, if their import fails


class MissingExtraError(ModuleNotFoundError):
    """A package of an extra is not installed."""


def hint(extra: str) -> str:
    """What to type for an extra, from an index or in a clone.

    >>> hint("bench")
    'pip install "qact[bench]", or in a clone: pip install ".[bench]"'
    """
    return f'pip install "qact[{extra}]", or in a clone: pip install ".[{extra}]"'


def missing(what: str, package: str, extra: str) -> MissingExtraError:
    """The error of ``what`` where ``package`` is not installed."""
    return MissingExtraError(
        f"{what} needs {package}, which is not installed: {hint(extra)}", name=package
    )


@contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """Within the block packages of an extra are imported; one that is missing is said in words.

    Example:
        >>> with needed("this example", "bench"):
        ...     import rich_text_of_tomorrow
        Traceback (most recent call last):
        qact.extras.MissingExtraError: this example needs rich_text_of_tomorrow, which is not ...
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OWN:
            raise
        raise missing(what, package, extra) from error
