"""The console script ``qact``: a door that opens only if the extra behind it is installed."""

from __future__ import annotations

import sys

_EXTRA = {"typer", "rich", "sklearn", "matplotlib", "safetensors", "scipy", "tomli"}


def app() -> None:
    """Run the command line; without the extra, say how to install it and exit with 2."""
    try:
        from qact.cli.bench import commands
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        print(f'qact: {error.name} is not installed; pip install "qact[bench]"', file=sys.stderr)
        raise SystemExit(2) from None
    commands()
