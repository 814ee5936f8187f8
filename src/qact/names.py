"""Names that nobody knows: an error that lists those that were meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: object, known: Iterable[str], which: str = "") -> ValueError:
    """Return the error for a name that is not among ``known``, with the closest ones first.

    Example:
        >>> unknown("corruption", "foog", ["fog", "snow"])
        ValueError("unknown corruption 'foog'; did you mean 'fog'? known: fog, snow")
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    tail = f" {which}" if which else ""
    return ValueError(f"unknown {what} {name!r}; {hint}known{tail}: {', '.join(known)}")
