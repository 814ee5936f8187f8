"""The console script ``qact``: a door that says what is behind it where the extra is missing.

Every module of this package is cheap to import: help, the version and mistyped options need no
torch. What a command works with is imported when it runs.
"""

from __future__ import annotations

import sys

from qact import __version__
from qact.extras import MissingExtraError, hint, needed

COMMANDS = ("bench", "corrupt", "download", "evaluate", "list", "monitor", "report", "train")


def app() -> None:
    """Run the command line; without the extra, there is help, and a command exits with 2."""
    asked = sys.argv[1:]
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
