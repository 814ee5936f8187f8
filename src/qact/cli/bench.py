"""``qact bench``, ``train``, ``evaluate``, ``report`` and ``list``; others join them here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qact.bench.errors import BenchError, CellError, RecipeError
from qact.bench.recipe.recipe import Recipe, quick
from qact.bench.recipe.rivals import list_rivals
from qact.bench.recipe.study import full
from qact.bench.runner.bench import run
from qact.bench.runner.devices import devices_of
from qact.bench.runner.progress import Bars, Lines
from qact.cli import datasets as shift_commands
from qact.cli import network as single_commands
from qact.cli import options as o
from qact.cli import report as report_commands
from qact.cli.recipe_options import (
    LOSS_AXIS,
    NETWORK,
    SEEDS,
    SHIFT,
    TEST_LIMIT,
    TRAINING,
    Flags,
    recipe_options,
)
from qact.cli.report import show

commands = typer.Typer(
    help="Activations that know their context, and the bench that measures them.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for results.json, results.csv, report.html.")
]
File = Annotated[Path | None, typer.Option("--recipe", help="TOML file with a recipe.")]
Quick = Annotated[bool, typer.Option("--quick", help="Half a minute: one seed, fewer epochs.")]
Full = Annotated[
    bool, typer.Option("--full", help="Also every method of qact.adapt on every stream.")
]
Names = Annotated[
    list[str] | None, typer.Option("--activation", help="Activation to compare; repeat for more.")
]
Pattern = Annotated[
    str | None, typer.Option("--activations", help='All that match, as "*elu"; or "all".')
]
Faults = Annotated[
    bool, typer.Option("--faults", help="Accuracy against bit-error rates instead of shifts.")
]
Device = Annotated[
    str, typer.Option("--device", help="cpu, cuda (all GPUs), or a list as cuda:0,cuda:1.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", help="Processes side by side, 1 thread each: 2, or one per GPU."),
]


@commands.command()
@recipe_options(NETWORK | TEST_LIMIT | TRAINING | LOSS_AXIS | SEEDS | SHIFT)
def bench(
    flags: Flags,
    out: Out = None,
    recipe: File = None,
    quick_run: Quick = False,
    full_run: Full = False,
    activation: Names = None,
    activations: Pattern = None,
    preset: o.Preset = None,
    module: o.Imports = None,
    device: Device = "cpu",
    jobs: Jobs = None,
    faults: Faults = False,
) -> None:
    """Train the same network with each activation and measure it under distribution shift.

    Run the same command again to go on after an interruption. Add an activation, a loss, a method
    or a stream, and only what is new runs.
    """
    console = Console()
    flags["activations"] = list(dict.fromkeys([*(activation or []), *_matching(activations)]))
    base = quick(Recipe()) if quick_run else Recipe()
    asked = o.recipe_of(base, recipe, preset, flags)
    asked = full(asked) if full_run else asked
    folder = out or Path("runs") / _folder(asked, flags["model.name"], quick_run, full_run, faults)
    if faults:
        _faults(asked, folder, 5 if quick_run else 20, console)
    else:
        _bench(asked, folder, devices_of(device), jobs, tuple(module or ()), console)


def _bench(
    recipe: Recipe,
    folder: Path,
    devices: tuple[str, ...],
    jobs: int | None,
    imports: tuple[str, ...],
    console: Console,
) -> None:
    display = Bars if console.is_terminal else Lines
    usual = 2 if devices == ("cpu",) else len(devices)
    try:
        run(
            recipe,
            folder,
            jobs=usual if jobs is None else jobs,
            devices=devices,
            imports=imports,
            command=o.command_line(),
            display=lambda total: display(console, total),
        )
    except CellError:
        with suppress(BenchError):  # there may be nothing to show
            show(folder, console)  # the other cells
        raise
    show(folder, console)


def _folder(
    recipe: Recipe, model: str | None, quick_run: bool, full_run: bool, faults: bool
) -> str:
    data = Path(recipe.data.name).stem
    kinds = {"quick": quick_run, "full": full_run, "faults": faults}
    return "-".join([data, *([model] if model else []), *(k for k, on in kinds.items() if on)])


def _faults(recipe: Recipe, folder: Path, trials: int, console: Console) -> None:
    from qact.bench.measure.faults import measure_faults
    from qact.bench.report.terminal import print_faults

    rows = measure_faults(recipe, folder, trials, tell=lambda text: console.print(f"  {text}"))
    print_faults(rows, console)
    console.print(f"\n{folder / 'faults.json'}", soft_wrap=True, highlight=False)


def _matching(pattern: str | None) -> list[str]:
    names = [] if pattern is None else [rival.name for rival in list_rivals(pattern)]
    if pattern is not None and not names:
        raise RecipeError(f"no activation matches {pattern!r}; see `qact list`")
    return names


commands.command("report")(report_commands.report)
commands.command("list")(report_commands.list_names)
commands.command("train")(single_commands.train)
commands.command("evaluate")(single_commands.evaluate)
commands.command("corrupt")(shift_commands.corrupt)
commands.command("download")(shift_commands.download)
