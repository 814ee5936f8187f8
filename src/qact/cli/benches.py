"""`qact bench` and `qact report`: many networks under shift, and their tables."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qact.cli import options as o
from qact.cli.fitted import say_fitted, trainable
from qact.cli.options import Flags, recipe_options

if TYPE_CHECKING:
    from rich.console import Console

    from qact.bench import Recipe

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
Scores = Annotated[
    bool, typer.Option("--scores", help="How well scores tell outliers, instead of shifts.")
]
Drift = Annotated[
    bool,
    typer.Option("--drift", help="Which layer costs accuracy, by corruption; in report.html too."),
]
Outliers = Annotated[
    list[str] | None,
    typer.Option("--outliers", help="With --scores: a data set of outliers; repeat for more."),
]
Devices = Annotated[
    str, typer.Option("--device", help="cpu, cuda (all GPUs), or a list as cuda:0,cuda:1.")
]
Jobs = Annotated[
    int | None,
    o.option("--jobs", of=int, help="Processes side by side, 1 thread each: 2, or one per GPU."),
]


@recipe_options(o.NETWORK | o.TEST_LIMIT | o.TRAINING | o.LOSS_AXIS | o.SEEDS | o.SHIFT)
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
    device: Devices = "cpu",
    jobs: Jobs = None,
    on: o.On = None,
    faults: Faults = False,
    scores: Scores = False,
    drift: Drift = False,
    outliers: Outliers = None,
) -> None:
    """Train a network with each activation; measure all under shift.

    Run the same command again to go on after an interruption. Add an activation, a loss, a method
    or a stream, and only what is new runs.
    """
    from rich.console import Console

    from qact.bench.recipe.presets import full, quick
    from qact.bench.recipe.recipe import Recipe
    from qact.bench.recipe.toml import recipe_of
    from qact.bench.runner.devices import devices_of

    console = Console()
    flags["activations"] = list(dict.fromkeys([*(activation or []), *_matching(activations)]))
    base = quick(Recipe()) if quick_run else Recipe()
    asked = recipe_of(base, recipe, preset, flags)
    devices = devices_of(device, on)
    if on is not None and (jobs is not None or faults or scores or drift):
        raise typer.BadParameter(
            "--on is a bench's, in the place of --jobs; not of --faults, --scores, --drift"
        )
    if faults + scores + drift > 1:
        raise typer.BadParameter("--faults, --scores and --drift are measurements; ask for one")
    if outliers and not scores:
        raise typer.BadParameter("--outliers are for --scores")
    asked = trainable(asked, recipe_of(base, None, preset, {}), console)
    if not (faults or scores):
        asked, images = _measurable(asked, base, console)
        asked = full(asked, min(256, images)) if full_run else asked
    kinds = {"quick": quick_run, "full": full_run, "faults": faults, "scores": scores}
    folder = out or Path("runs") / _folder(asked, flags, kinds)
    if faults:
        _faults(asked, folder, 5 if quick_run else 20, console)
    elif scores:
        _scores(asked, folder, tuple(outliers or ()), console)
    elif drift:
        _drift(asked, folder, console)
    else:
        _bench(asked, folder, devices, jobs, on, tuple(module or ()), console)


def _bench(
    recipe: Recipe,
    folder: Path,
    devices: tuple[str, ...],
    jobs: int | None,
    on: str | None,
    imports: tuple[str, ...],
    console: Console,
) -> None:
    from qact.bench.errors import BenchError, CellError
    from qact.bench.runner.bench import run
    from qact.bench.runner.progress import Bars, Lines

    display = Bars if console.is_terminal else Lines
    usual = 2 if devices == ("cpu",) else len(devices)
    try:
        run(
            recipe,
            folder,
            jobs=usual if jobs is None else jobs,
            devices=devices,
            imports=imports,
            on=on,
            command=o.command_line(),
            display=lambda total: display(console, total),
        )
    except CellError:
        with suppress(BenchError):  # there may be nothing to show
            _show(folder, console)  # the other cells
        raise
    _show(folder, console)


def _measurable(recipe: Recipe, usual: Recipe, console: Console) -> tuple[Recipe, int]:
    """Return the recipe with the usual batches no larger than the test set, and the set's size."""
    from dataclasses import replace

    from qact.bench.data import load_inputs

    images = load_inputs(recipe.data).first(recipe.shift.images).sizes()["test"]
    if recipe.shift.adaptations != usual.shift.adaptations:  # what was asked for is not changed
        return recipe, images
    shift = recipe.shift.fitted(images)
    what = f"{images} test images: adaptations"
    say_fitted(what, recipe.shift.adaptations, shift.adaptations, console)
    return replace(recipe, shift=shift), images


def _folder(recipe: Recipe, flags: Flags, kinds: dict[str, bool]) -> str:
    asked = (flags["model.name"], flags["model.normaliser"], *(k for k, on in kinds.items() if on))
    return "-".join(filter(None, (Path(recipe.data.name).stem, *asked)))


def _faults(recipe: Recipe, folder: Path, trials: int, console: Console) -> None:
    from qact.bench.measure.faults import measure_faults
    from qact.bench.report.terminal import print_faults
    from qact.bench.store.files import make_folder

    make_folder(folder)
    rows = measure_faults(recipe, folder, trials, tell=lambda text: console.print(f"  {text}"))
    print_faults(rows, console)
    console.print(f"\n{folder / 'faults.json'}", soft_wrap=True, highlight=False)


def _scores(recipe: Recipe, folder: Path, outliers: tuple[str, ...], console: Console) -> None:
    from qact.bench.measure.scores import measure_scores
    from qact.bench.report.terminal import print_scores
    from qact.bench.store.files import make_folder

    make_folder(folder)
    rows = measure_scores(recipe, folder, outliers, tell=lambda text: console.print(f"  {text}"))
    print_scores(rows, console)
    console.print(f"\n{folder / 'scores.json'}", soft_wrap=True, highlight=False)


def _drift(recipe: Recipe, folder: Path, console: Console) -> None:
    from qact.bench.measure.drift import FILE, measure_drift
    from qact.bench.report.terminal import print_drift
    from qact.bench.store.files import make_folder

    make_folder(folder)
    rows = measure_drift(recipe, folder, tell=lambda text: console.print(f"  {text}"))
    print_drift(rows, console)
    console.print(f"\n{folder / FILE}", soft_wrap=True, highlight=False)
    if (folder / "results.json").exists():  # of a bench: its page has a section more
        from qact.bench.report.html import write_report
        from qact.bench.report.summary import Summary
        from qact.bench.store.results import load_results

        page = write_report(Summary(load_results(folder)), folder)
        console.print(f"{page}", soft_wrap=True, highlight=False)


def _matching(pattern: str | None) -> list[str]:
    if pattern is None:
        return []
    from qact.bench.errors import RecipeError
    from qact.bench.recipe.rivals import list_rivals

    names = [rival.name for rival in list_rivals(pattern)]
    if not names:
        raise RecipeError(f"no activation matches {pattern!r}; see `qact list`")
    return names


def _show(folder: Path, console: Console) -> None:
    """Print the tables of a folder and write its report."""
    from qact.bench.report.html import write_report
    from qact.bench.report.summary import Summary
    from qact.bench.report.terminal import print_all
    from qact.bench.store.results import load_results

    summary = Summary(load_results(folder))
    print_all(summary, console)
    console.print(f"\n{write_report(summary, folder)}", soft_wrap=True, highlight=False)


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of benches, finished or not; several are joined.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the reports of joined benches.")
    ] = None,
) -> None:
    """Print the tables of benches again, and rewrite report.html.

    Benches of one recipe become one table. Those of different data, networks or recipes have
    tables of their own, one below the other: their numbers cannot be compared within one.
    """
    with o.at_work(resumes=False):
        from rich.console import Console

        console = Console()
        if len(folders) == 1 and out is None:
            _show(folders[0], console)
        else:
            _side_by_side(folders, out, console)


def _side_by_side(folders: list[Path], out: Path | None, console: Console) -> None:
    from qact.bench.errors import BenchError
    from qact.bench.report.html import write_report
    from qact.bench.report.summary import Summary
    from qact.bench.report.terminal import print_all
    from qact.bench.store.files import make_folder
    from qact.bench.store.join import side_by_side
    from qact.bench.store.results import load_results

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
            make_folder(place)
            group.results.save_beside(place)
            console.print(f"\n{write_report(summary, place)}", soft_wrap=True, highlight=False)
