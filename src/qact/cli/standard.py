"""Terminals that lack something: a stream, letters beyond ASCII, a width."""

from __future__ import annotations

import codecs
import os
import sys

NARROWEST = 20  # columns; Rich prints nothing at all where COLUMNS is 0
_LETTERS = {"◆": "*", "±": "+-", "–": "-", "−": "-", "×": "x", "…": "~"} | {
    bar: str(height) for height, bar in enumerate("▁▂▃▄▅▆▇█", 1)
}


def take_any_terminal() -> None:
    """Let the commands print where a stream is closed, not of Unicode, or said to have no width."""
    _open_closed()
    codecs.register_error("qact.letters", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="qact.letters")
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) < NARROWEST:
        del os.environ["COLUMNS"]


def _open_closed() -> None:
    """Open the null device where a standard stream is closed: no file is to get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115, as long as the process
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What a terminal's encoding has not, in letters that every one has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_LETTERS.get(letter, "?") for letter in letters), error.end
