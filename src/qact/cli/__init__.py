"""The console script ``qact``: a door that says what is behind it where the extra is missing.

Every module of this package is cheap to import: help, the version and mistyped options need no
torch. What a command works with is imported when it runs.
"""

from __future__ import annotations

import os
import sys

from qact import __version__, checks
from qact.cli.standard import take_any_terminal
from qact.extras import MissingExtraError, hint, needed

COMMANDS = ("bench", "corrupt", "download", "evaluate", "list", "monitor", "report", "train")


def app() -> None:
    """Run the command line; what the system refuses outside of a command is one line too."""
    try:
        take_any_terminal()
        try:
            _run(sys.argv[1:])
        finally:
            sys.stdout.flush()  # here, where a full disk can be said
    except KeyboardInterrupt:
        print("qact: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # as of `| head`, which has seen enough
            print(f"qact: {checks.reason(error)}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
        raise SystemExit(1) from None


def _run(asked: list[str]) -> None:
    """Without the extra, there is help, and a command exits with 2."""
    for before, word in zip(("qact", *asked), asked, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            print(f"qact: nothing follows {word or before}; is a variable unset?", file=sys.stderr)
            raise SystemExit(2)
    if asked == ["--version"]:
        print(f"qact {__version__}")
        return
    try:
        with needed("the command line", "bench"):
            from qact.cli.commands import commands
    except MissingExtraError as error:
        if asked and asked != ["--help"]:
            print(f"qact: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        print(f"Usage: qact COMMAND ...\n\nThe commands {', '.join(COMMANDS)} need an extra:\n")
        print(f"    {hint('bench')}\n\nThe library itself, import qact, does without.")
        return
    commands()
