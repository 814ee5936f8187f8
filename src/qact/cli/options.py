"""The options that the commands share, and what they make of a recipe."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from qact.bench.errors import BenchError
from qact.bench.recipe.presets import PRESETS
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.toml import changed, load_recipe

Preset = Annotated[
    str | None, typer.Option("--preset", help=f"Training recipe: {', '.join(PRESETS)}.")
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import", help="Module that registers what is named: activations, corruptions, data."
    ),
]


def recipe_of(base: Recipe, file: Path | None, preset: str | None, flags: dict[str, Any]) -> Recipe:
    """Return the recipe of a file, or ``base``, with a preset and flags over it.

    ``flags`` are named ``"section.option"``, or ``"activations"`` and ``"seeds"``; None and empty
    ones were not given. A flag beats the preset, the preset beats the file.
    """
    recipe = load_recipe(file, base) if file is not None else base
    if preset is not None:
        recipe = changed(recipe, {"training": {"preset": preset}})
    changes: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value in ((), []):
            continue
        section, _, option = name.partition(".")
        if option:
            changes.setdefault(section, {})[option] = value
        else:
            changes[section] = value
    return changed(recipe, changes)


def command_line() -> str:
    """Return what was typed, to repeat it."""
    return shlex.join(["qact", *sys.argv[1:]])


def look_here() -> None:
    """Let ``--import`` find modules in the working folder; a console script does not by itself."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def import_all(modules: list[str] | None) -> None:
    """Import the modules that register a user's own activations, corruptions and data sets."""
    for module in modules or []:
        importlib.import_module(module)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what the user can put right into one line; leave defects of ours their traceback."""
    try:
        yield
    except (BenchError, OSError, ImportError) as error:
        typer.echo(f"qact: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("qact: stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
