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

from qact.bench.errors import BenchError, RecipeError
from qact.bench.presets import PRESETS
from qact.bench.recipe import STREAMS, Recipe
from qact.bench.toml import changed, load_recipe

DataName = Annotated[str | None, typer.Option("--data", help="Data set; see `qact list`.")]
Limit = Annotated[int | None, typer.Option("--limit", help="The first N images alone.")]
TestLimit = Annotated[
    int | None, typer.Option("--test-limit", help="Test on the first N images alone.")
]
ModelName = Annotated[str | None, typer.Option("--model", help="Network; see `qact list`.")]
Width = Annotated[
    float | None,
    typer.Option("--width", "--width-multiplier", help="Channels, as a multiple of the usual."),
]
Place = Annotated[
    str | None, typer.Option("--placement", help="everywhere, or paper: as the paper's code.")
]
Preset = Annotated[
    str | None, typer.Option("--preset", help=f"Training recipe: {', '.join(PRESETS)}.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of training.")]
Batch = Annotated[int | None, typer.Option("--batch", help="Images per training step.")]
Rate = Annotated[float | None, typer.Option("--lr", help="The highest learning rate.")]
Loss = Annotated[str | None, typer.Option("--loss", help="Loss of the training; see `qact list`.")]
Precision = Annotated[
    str | None, typer.Option("--precision", help="float32, or bfloat16 for autocast.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Train with torch.compile.")]
Imports = Annotated[
    list[str] | None, typer.Option("--import", help="Module that registers further rivals.")
]
Adaptations = Annotated[
    list[str] | None,
    typer.Option("--adaptation", help="frozen, batch-N, mixed-N or recalibrated-N; repeat."),
]
Corruptions = Annotated[
    list[str] | None,
    typer.Option("--corruption", help="Corruption to measure; repeat; or standard, all."),
]
Severities = Annotated[
    list[int] | None, typer.Option("--severity", help="0 (clean) to 5; repeat for more.")
]
Stream = Annotated[
    str | None, typer.Option("--stream", help=f"Order of the test images: {', '.join(STREAMS)}.")
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


def corruptions_of(asked: list[str] | None) -> list[str] | None:
    """Return the corruptions of a group, or those that were named."""
    from qact.shift import corruptions

    groups = ("standard", "holdout", "all")
    if asked and len(asked) == 1 and asked[0] in groups:
        return list(corruptions(asked[0]))
    return asked


def seeds_of(count: int | None) -> tuple[int, ...] | None:
    """Return the seeds 0, 1, ... of a number of them."""
    if count is not None and count < 1:
        raise RecipeError(f"--seeds must be at least 1, got {count}")
    return None if count is None else tuple(range(count))


def command_line() -> str:
    """Return what was typed, to repeat it."""
    return shlex.join(["qact", *sys.argv[1:]])


def look_here() -> None:
    """Let ``--import`` find modules in the working folder; a console script does not by itself."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def import_all(modules: list[str] | None) -> None:
    """Import the modules that register a user's own rivals."""
    for module in modules or []:
        importlib.import_module(module)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what the user can put right into one line; leave defects of ours their traceback."""
    try:
        yield
    except (BenchError, FileNotFoundError, PermissionError, ImportError) as error:
        typer.echo(f"qact: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("qact: stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
