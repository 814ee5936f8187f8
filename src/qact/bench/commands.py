"""``qact bench``, ``qact report`` and ``qact list``; ``corrupt`` and ``download`` join them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from qact.bench.errors import BenchError, CellError, RecipeError
from qact.bench.objective import LOSSES
from qact.bench.progress import Bars, Lines
from qact.bench.ranking import FEW, print_ranking
from qact.bench.recipe import Data, Model, Recipe, quick
from qact.bench.report import write_report
from qact.bench.results import load_results
from qact.bench.rivals import list_rivals
from qact.bench.runner import run
from qact.bench.summary import Summary
from qact.bench.table import print_summary
from qact.shift import commands as shift_commands

commands = typer.Typer(
    help="Activations that know their context, and the bench that measures them.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DataName = Annotated[str, typer.Option("--data", help="Data set; see `qact list`.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for results.json, results.csv, report.html.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Half a minute: one seed, fewer epochs.")]
Seeds = Annotated[int | None, typer.Option("--seeds", help="Number of seeds (default 3).")]
Names = Annotated[
    list[str] | None, typer.Option("--activation", help="Activation to compare; repeat for more.")
]
Pattern = Annotated[
    str | None, typer.Option("--activations", help='All that match, as "*elu"; or "all".')
]
Faults = Annotated[
    bool, typer.Option("--faults", help="Accuracy against bit-error rates instead of shifts.")
]
Adaptations = Annotated[
    list[str] | None, typer.Option("--adaptation", help="frozen, batch-N or mixed-N; repeat.")
]
Corruptions = Annotated[
    list[str] | None, typer.Option("--corruption", help="Corruption to measure; repeat for more.")
]
Loss = Annotated[str, typer.Option("--loss", help="Loss of the training; see `qact list`.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of training.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Network; see `qact list`.")]
Width = Annotated[
    float, typer.Option("--width-multiplier", help="Channels, as a multiple of the network's own.")
]
Place = Annotated[
    str, typer.Option("--placement", help="everywhere, or paper: as the paper's code has it.")
]
Imports = Annotated[
    list[str] | None, typer.Option("--import", help="Module that registers further rivals.")
]
Jobs = Annotated[int, typer.Option("--jobs", help="Processes side by side, 1 thread each.")]


@commands.command()
def bench(
    data: DataName = "digits",
    out: Out = None,
    quick_run: Quick = False,
    seeds: Seeds = None,
    activation: Names = None,
    activations: Pattern = None,
    adaptation: Adaptations = None,
    corruption: Corruptions = None,
    epochs: Epochs = None,
    loss: Loss = "cross_entropy",
    module: Imports = None,
    jobs: Jobs = 2,
    faults: Faults = False,
    model: ModelName = None,
    width_multiplier: Width = 1.0,
    placement: Place = "everywhere",
) -> None:
    """Train the same network with each activation and measure it under distribution shift.

    Run the same command again to go on after an interruption. Add an activation, and only its
    cells run.
    """
    console = Console()
    if str(Path.cwd()) not in sys.path:  # a console script does not look there by itself
        sys.path.insert(0, str(Path.cwd()))
    with _plain_errors():
        names = [*(activation or []), *_matching(activations)]
        recipe = _recipe(data, quick_run, seeds, names, adaptation, corruption, epochs)
        recipe = replace(recipe, training=replace(recipe.training, loss=loss))
        network = Model(model or recipe.model.name, width_multiplier, placement)
        recipe = replace(recipe, model=network)
        folder = out or Path("runs") / _folder(data, model, quick_run, faults)
        if faults:
            _faults(recipe, folder, 5 if quick_run else 20, console)
            return
        display = Bars if console.is_terminal else Lines
        try:
            run(
                recipe,
                folder,
                jobs=jobs,
                imports=tuple(module or ()),
                command=shlex.join(["qact", *sys.argv[1:]]),
                display=lambda total: display(console, total),
            )
        except CellError:
            if (folder / "results.json").exists():  # the other cells are written: show them
                _show(folder, console)
            raise
        _show(folder, console)


def _folder(data: str, model: str | None, quick_run: bool, faults: bool) -> str:
    name = f"{data}-{model}" if model else data
    return f"{name}{'-quick' if quick_run else ''}{'-faults' if faults else ''}"


def _faults(recipe: Recipe, folder: Path, trials: int, console: Console) -> None:
    from qact.bench.faults import measure_faults, print_faults

    rows = measure_faults(recipe, folder, trials, tell=lambda text: console.print(f"  {text}"))
    print_faults(rows, console)
    console.print(f"\n{folder / 'faults.json'}", soft_wrap=True, highlight=False)


def _show(folder: Path, console: Console) -> None:
    """Print severity by severity what fits on a screen; of more activations, the ranking."""
    summary = Summary(load_results(folder))
    few = len(summary.activations) <= FEW
    (print_summary if few else print_ranking)(summary, console)
    console.print(f"\n{write_report(summary, folder)}", soft_wrap=True, highlight=False)


def _matching(pattern: str | None) -> list[str]:
    names = [] if pattern is None else [rival.name for rival in list_rivals(pattern)]
    if pattern is not None and not names:
        raise RecipeError(f"no activation matches {pattern!r}; see `qact list`")
    return names


def _recipe(
    data: str,
    quick_run: bool,
    seeds: int | None,
    activations: list[str] | None,
    adaptations: list[str] | None,
    corruptions: list[str] | None,
    epochs: int | None,
) -> Recipe:
    recipe = replace(Recipe(), data=Data(data))
    recipe = quick(recipe) if quick_run else recipe
    shift: dict[str, Any] = {}
    if adaptations:
        shift["adaptations"] = tuple(adaptations)
    if corruptions:
        shift["corruptions"] = tuple(corruptions)
    recipe = replace(recipe, shift=replace(recipe.shift, **shift))
    if activations:
        recipe = replace(recipe, activations=tuple(dict.fromkeys(activations)))
    if seeds is not None and seeds < 1:
        raise RecipeError(f"--seeds must be at least 1, got {seeds}")
    if seeds is not None:
        recipe = replace(recipe, seeds=tuple(range(seeds)))
    if epochs is not None:
        recipe = replace(recipe, training=replace(recipe.training, epochs=epochs))
    return recipe


@commands.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a bench, finished or not.")],
) -> None:
    """Print the table of a bench again and rewrite its report.html."""
    console = Console()
    with _plain_errors():
        _show(folder, console)


@commands.command("list")
def list_names() -> None:
    """List activations, corruptions, data sets, models, losses and adaptations."""
    from qact.models import MODELS
    from qact.shift import corruptions
    from qact.shift.data import NAMES

    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for entry in list_rivals():
        table.add_row(entry.name, "control" if entry.control else "", entry.paper)
    console.print("[bold]activations[/] (--activation)")
    console.print(table)
    console.print("\n[bold]corruptions[/] (--corruption)")
    console.print(", ".join(corruptions("all")), highlight=False)
    console.print("\n[bold]data[/] (--data)")
    console.print(", ".join(NAMES), highlight=False)
    console.print("\n[bold]models[/] (--model)")
    console.print(", ".join(MODELS), highlight=False)
    console.print("\n[bold]losses[/] (--loss)")
    console.print(", ".join(LOSSES), highlight=False)
    console.print("\n[bold]adaptations[/] (--adaptation)\nfrozen, batch-N, mixed-N")


commands.command("corrupt")(shift_commands.corrupt)
commands.command("download")(shift_commands.download)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what the user can put right into one line; leave defects of ours their traceback."""
    try:
        yield
    except (BenchError, FileNotFoundError, PermissionError, ImportError) as error:
        typer.echo(f"qact: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("qact: stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
