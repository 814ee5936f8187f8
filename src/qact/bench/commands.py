"""``qact bench``, ``train``, ``evaluate``, ``report`` and ``list``; others join them here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qact.bench import options as o
from qact.bench import single_commands
from qact.bench.devices import devices_of
from qact.bench.errors import BenchError, CellError, RecipeError
from qact.bench.join import side_by_side
from qact.bench.objective import LOSSES
from qact.bench.presets import PRESETS
from qact.bench.progress import Bars, Lines
from qact.bench.recipe import Recipe, quick
from qact.bench.recipe_options import (
    LOSS_AXIS,
    NETWORK,
    SEEDS,
    SHIFT,
    TEST_LIMIT,
    TRAINING,
    Flags,
    recipe_options,
)
from qact.bench.report import print_all, write_report
from qact.bench.results import load_results
from qact.bench.rivals import list_rivals
from qact.bench.runner import run
from qact.bench.shift import STREAMS
from qact.bench.study import full
from qact.bench.summary import Summary
from qact.shift import commands as shift_commands

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
        if (folder / "results.json").exists():  # the other cells are written: show them
            _show(folder, console)
        raise
    _show(folder, console)


def _folder(
    recipe: Recipe, model: str | None, quick_run: bool, full_run: bool, faults: bool
) -> str:
    data = Path(recipe.data.name).stem
    kinds = {"quick": quick_run, "full": full_run, "faults": faults}
    return "-".join([data, *([model] if model else []), *(k for k, on in kinds.items() if on)])


def _faults(recipe: Recipe, folder: Path, trials: int, console: Console) -> None:
    from qact.bench.faults import measure_faults, print_faults

    rows = measure_faults(recipe, folder, trials, tell=lambda text: console.print(f"  {text}"))
    print_faults(rows, console)
    console.print(f"\n{folder / 'faults.json'}", soft_wrap=True, highlight=False)


def _show(folder: Path, console: Console) -> None:
    summary = Summary(load_results(folder))
    print_all(summary, console)
    console.print(f"\n{write_report(summary, folder)}", soft_wrap=True, highlight=False)


def _matching(pattern: str | None) -> list[str]:
    names = [] if pattern is None else [rival.name for rival in list_rivals(pattern)]
    if pattern is not None and not names:
        raise RecipeError(f"no activation matches {pattern!r}; see `qact list`")
    return names


@commands.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of benches, finished or not; several are joined.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the reports of joined benches.")
    ] = None,
) -> None:
    """Print the tables of one bench or several again, and rewrite report.html.

    Benches of one recipe become one table. Those of different data, networks or recipes have
    tables of their own, one below the other: their numbers cannot be compared within one.
    """
    console = Console()
    with o.plain_errors():
        if len(folders) == 1 and out is None:
            _show(folders[0], console)
            return
        groups = side_by_side([load_results(folder) for folder in folders])
        for number, group in enumerate(groups, 1):
            console.rule(f"[bold]{number} of {len(groups)}[/]: {group.title}")
            if group.why:
                console.print(f"A table of its own: {group.why}.", highlight=False, markup=False)
            summary = Summary(group.results)
            if not group.results.rows:
                raise BenchError(f"{group.title}: there are no measurements to report yet")
            print_all(summary, console)
            if out is not None:
                place = out if len(groups) == 1 else out / str(number)
                place.mkdir(parents=True, exist_ok=True)
                group.results.save(place)
                path = write_report(summary, place)
                console.print(f"\n{path}", soft_wrap=True, highlight=False)


@commands.command("list")
def list_names() -> None:
    """List everything that can be asked for: activations, data, losses, methods, streams."""
    from qact.adapt import methods
    from qact.models import MODELS
    from qact.shift import corruptions
    from qact.shift.data import NAMES

    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for entry in list_rivals():
        table.add_row(entry.name, "control" if entry.control else "", entry.paper)
    console.print("[bold]activations[/] (--activation)")
    console.print(table)
    for title, names in (
        ("corruptions[/] (--corruption)", corruptions("all")),
        ("data[/] (--data)", NAMES),
        ("models[/] (--model)", MODELS),
        ("training recipes[/] (--preset)", PRESETS),
        ("losses[/] (--loss)", LOSSES),
        ("adaptations[/] (--adaptation)", ("frozen", "batch-N", "mixed-N", "recalibrated-N")),
        ("methods of qact.adapt[/] (--adaptation METHOD-N)", methods()),
        ("streams[/] (--stream)", STREAMS),
    ):
        console.print(f"\n[bold]{title}")
        console.print(", ".join(names), highlight=False)


commands.command("train")(single_commands.train)
commands.command("evaluate")(single_commands.evaluate)
commands.command("corrupt")(shift_commands.corrupt)
commands.command("download")(shift_commands.download)
