"""Every command of ``qact``: bench, train, evaluate, report, list, corrupt and download."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qact import __version__
from qact.cli import options as o
from qact.cli.options import Flags, recipe_options

if TYPE_CHECKING:
    from rich.console import Console

    from qact.bench import Recipe

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
Scores = Annotated[
    bool, typer.Option("--scores", help="How well scores tell outliers, instead of shifts.")
]
Outliers = Annotated[
    list[str] | None,
    typer.Option("--outliers", help="With --scores: a data set of outliers; repeat for more."),
]
Devices = Annotated[
    str, typer.Option("--device", help="cpu, cuda (all GPUs), or a list as cuda:0,cuda:1.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", help="Processes side by side, 1 thread each: 2, or one per GPU."),
]


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"qact {__version__}")
        raise typer.Exit


@commands.callback()
def _qact(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="And exit.")
    ] = False,
) -> None: ...


@commands.command()
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
    faults: Faults = False,
    scores: Scores = False,
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
    devices = devices_of(device)
    if faults and scores:
        raise typer.BadParameter("--faults and --scores are two measurements; ask for one")
    if outliers and not scores:
        raise typer.BadParameter("--outliers are for --scores")
    asked = _trainable(asked, recipe_of(base, None, preset, {}), console)
    if not (faults or scores):
        asked, images = _measurable(asked, base, console)
        asked = full(asked, min(256, images)) if full_run else asked
    kinds = {"quick": quick_run, "full": full_run, "faults": faults, "scores": scores}
    folder = out or Path("runs") / _folder(asked, flags["model.name"], kinds)
    if faults:
        _faults(asked, folder, 5 if quick_run else 20, console)
    elif scores:
        _scores(asked, folder, tuple(outliers or ()), console)
    else:
        _bench(asked, folder, devices, jobs, tuple(module or ()), console)


def _bench(
    recipe: Recipe,
    folder: Path,
    devices: tuple[str, ...],
    jobs: int | None,
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
    _say_fitted(what, recipe.shift.adaptations, shift.adaptations, console)
    return replace(recipe, shift=shift), images


def _trainable(recipe: Recipe, usual: Recipe, console: Console) -> Recipe:
    """Return the recipe with what is usual, and not asked for, fitted to few images."""
    from dataclasses import replace

    from qact.bench.data import load_inputs

    sizes, asked = load_inputs(recipe.data).sizes(), recipe.training
    training = asked
    if asked.batch == usual.training.batch:
        training = training.fitted(sizes["train"])
        what = f"{sizes['train']} training images: batches of"
        _say_fitted(what, (asked.batch,), (training.batch,), console)
    if not sizes["val"] and asked.watches == usual.training.watches:
        training = training.blind()
        what = "no validation images:"
        _say_fitted(what, (asked.watches,), (training.watches or "the last epoch",), console)
    return replace(recipe, training=training)


def _say_fitted(
    what: str, usual: tuple[Any, ...], fitted: tuple[Any, ...], console: Console
) -> None:
    if usual != fitted:
        old, new = (", ".join(map(str, values)) for values in (usual, fitted))
        console.print(f"{what} {new} instead of {old}", highlight=False, soft_wrap=True)


def _folder(recipe: Recipe, model: str | None, kinds: dict[str, bool]) -> str:
    data = Path(recipe.data.name).stem
    return "-".join([data, *([model] if model else []), *(k for k, on in kinds.items() if on)])


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


def _matching(pattern: str | None) -> list[str]:
    if pattern is None:
        return []
    from qact.bench.errors import RecipeError
    from qact.bench.recipe.rivals import list_rivals

    names = [rival.name for rival in list_rivals(pattern)]
    if not names:
        raise RecipeError(f"no activation matches {pattern!r}; see `qact list`")
    return names


@commands.command()
@recipe_options(o.NETWORK | o.TRAINING | o.ONE_LOSS)
def train(
    flags: Flags,
    recipe: Annotated[Path | None, typer.Argument(help="TOML file with a recipe.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the checkpoints.")] = None,
    activation: Annotated[
        str | None, typer.Option("--activation", help="Activation (qact).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights and order (0).")] = None,
    preset: o.Preset = None,
    device: Device = "cpu",
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; PyTorch's choice if not given.")
    ] = None,
    log: Annotated[
        bool, typer.Option("--tensorboard", help="Log for TensorBoard, beside.")
    ] = False,
    module: o.Imports = None,
) -> None:
    """Train one network.

    Run the same command again to go on after an interruption. With several processes:

    \b
      torchrun --nproc-per-node 2 -m qact.cli train recipe.toml
    """
    from dataclasses import replace

    import torch
    from rich.console import Console

    from qact.bench.recipe.recipe import Recipe
    from qact.bench.recipe.toml import recipe_of
    from qact.bench.runner.devices import devices_of
    from qact.bench.runner.train import train_network

    flags |= {
        "activations": None if activation is None else (activation,),
        "seeds": None if seed is None else (seed,),
    }
    base = replace(Recipe(), activations=("qact",), seeds=(0,))
    console = Console(
        quiet=os.environ.get("RANK", "0") != "0"
    )  # one of torchrun's processes speaks
    usual = recipe_of(base, None, preset, {})
    asked = _trainable(recipe_of(base, recipe, preset, flags), usual, console)
    if threads is not None:
        torch.set_num_threads(o.at_least_one("--threads", threads))
    name = f"{Path(asked.data.name).stem}-{asked.model.name}-{asked.activations[0]}"
    folder = out or Path("runs") / "train" / f"{name}-{asked.seeds[0]}"
    train_network(asked, folder, device=devices_of(device)[0], log=log, console=console)


@commands.command()
@recipe_options(o.SHIFT, resumes=False)
def evaluate(
    flags: Flags,
    checkpoint: Annotated[Path, typer.Argument(help="weights.safetensors, or its folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write results.csv and report.html there.")
    ] = None,
    device: Device = "cpu",
    module: o.Imports = None,
) -> None:
    """Print the table of one trained network under distribution shift."""
    from rich.console import Console

    from qact.bench.measure.evaluate import evaluate_network
    from qact.bench.recipe.recipe import Recipe
    from qact.bench.recipe.toml import recipe_of
    from qact.bench.report.html import write_report
    from qact.bench.report.summary import Summary
    from qact.bench.report.terminal import print_all
    from qact.bench.runner.devices import devices_of
    from qact.bench.store.files import make_folder

    console = Console()
    shift = recipe_of(Recipe(), None, None, flags).shift
    fit = shift.adaptations == Recipe().shift.adaptations
    results = evaluate_network(checkpoint, shift, devices_of(device)[0], fit=fit)
    images = results.environment["images"]["test"]
    what, fitted = f"{images} test images: adaptations", results.recipe.shift
    _say_fitted(what, shift.adaptations, fitted.adaptations, console)
    summary = Summary(results)
    print_all(summary, console)
    if out is not None:
        make_folder(out)
        results.environment["command"] = o.command_line()
        results.save(out)
        console.print(f"\n{write_report(summary, out)}", soft_wrap=True, highlight=False)


def _show(folder: Path, console: Console) -> None:
    """Print the tables of a folder and write its report."""
    from qact.bench.report.html import write_report
    from qact.bench.report.summary import Summary
    from qact.bench.report.terminal import print_all
    from qact.bench.store.results import load_results

    summary = Summary(load_results(folder))
    print_all(summary, console)
    console.print(f"\n{write_report(summary, folder)}", soft_wrap=True, highlight=False)


@commands.command()
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
            group.results.save(place)
            console.print(f"\n{write_report(summary, place)}", soft_wrap=True, highlight=False)


@commands.command("list")
def list_names() -> None:
    """List what can be asked for: activations, data, streams and more."""
    with o.at_work(resumes=False):
        _list_names()


def _list_names() -> None:
    from rich.console import Console
    from rich.table import Table

    from qact import losses, models
    from qact.adapt import methods
    from qact.bench.recipe.presets import PRESETS
    from qact.bench.recipe.rivals import list_rivals
    from qact.bench.recipe.shift import STREAMS
    from qact.corruptions import corruptions
    from qact.corruptions.augment import AUGMENTATIONS
    from qact.datasets import names as data_sets

    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for entry in list_rivals():
        table.add_row(entry.name, "control" if entry.control else "", entry.paper)
    console.print("[bold]activations[/] (--activation)")
    console.print(table)
    for title, names in (
        ("corruptions[/] (--corruption)", corruptions("all") + corruptions("own")),
        ("data[/] (--data)", [*data_sets(shifted=False), "a folder of images", "an .npz file"]),
        ("test sets under shift[/]", data_sets(shifted=True)),
        ("models[/] (--model)", models.names()),
        ("training recipes[/] (--preset)", PRESETS),
        ("augmentations[/] (--augmentation)", AUGMENTATIONS),
        ("losses[/] (--loss)", [n for n in losses.names() if losses.entry(n).of != "values"]),
        ("adaptations[/] (--adaptation)", ("frozen", "batch-N", "mixed-N", "recalibrated-N")),
        ("methods of qact.adapt[/] (--adaptation METHOD-N)", methods()),
        ("streams[/] (--stream)", STREAMS),
    ):
        console.print(f"\n[bold]{title}")
        console.print(", ".join(names), highlight=False)


@commands.command()
def corrupt(
    out: Annotated[Path, typer.Option("--out", help="Folder of the .npy files.")],
    data: Annotated[str, typer.Option("--data", help=o.DATA)] = "cifar10",
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption", help="Repeat for more; or standard, holdout, own; all by default."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random numbers.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Test images to use at most.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side in pixels: digits and folders.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of the data; or QACT_DATA.")
    ] = None,
    device: Device = "cpu",
    module: o.Imports = None,
) -> None:
    """Write corrupted copies of a test set, laid out as CIFAR-10-C.

    Run the same command again to go on after an interruption.
    """
    with o.plain_errors():
        o.look_here()
        o.import_all(module)
    with o.at_work(ValueError, TypeError):
        from qact.corruptions.registry import expanded
        from qact.datasets.data import load
        from qact.datasets.writer import write_corrupted

        names = expanded(corruption or ["all"])
        _try(device)
        splits = load(data, size=size, root=root)
        images, labels = (part[:limit] for part in splits.test)
        with _bars() as bars:
            tasks = {name: bars.add_task(name, total=5 * len(images)) for name in names}
            folder = write_corrupted(
                images,
                labels,
                out,
                names,
                seed=seed,
                device=device,
                tell=lambda name, done, _: bars.update(tasks[name], completed=done),
            )
            for task in tasks.values():  # those that were there already
                bars.update(task, completed=5 * len(images))
        typer.echo(f"{folder}: {len(names)} corruptions of {len(images)} images, 5 severities")


@commands.command()
def download(
    name: Annotated[str, typer.Argument(help="Public data set, as cifar10; see `qact list`.")],
    root: Annotated[Path, typer.Argument(help="Folder; set QACT_DATA to it afterwards.")],
) -> None:
    """Download a public data set, and check it.

    Run the same command again to go on after an interruption.
    """
    with o.at_work(ValueError, TypeError):
        from qact.datasets.download import download as fetch_all

        with _bars() as bars:
            started: dict[str, Any] = {}

            def tell(file: str, done: int, whole: int | None) -> None:
                if file not in started:
                    started[file] = bars.add_task(file, total=None)
                bars.update(started[file], completed=done, total=whole)

            fetch_all(name, root, tell)


monitoring = typer.Typer(no_args_is_help=True, help="What a monitored model has seen.")
commands.add_typer(monitoring, name="monitor")
Windows = Annotated[Path, typer.Argument(help="Folder of windows, as Monitor(store=...) has it.")]
Page = Annotated[Path, typer.Option("--out", help="The page to write.")]
Rate = Annotated[float, typer.Option("--rate", help="Share of false alarms to mark.")]


@monitoring.command("report")
def monitor_report(store: Windows, out: Page = Path("monitor.html"), rate: Rate = 0.01) -> None:
    """Write one page: time lines, layers, densities then and now."""
    with o.at_work(ValueError, resumes=False):
        from qact.monitor.report import write_report

        typer.echo(write_report(store, out, rate=rate))


@monitoring.command("watch")
def monitor_watch(
    store: Windows,
    rate: Rate = 0.01,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
) -> None:
    """Show the latest windows in the terminal until Ctrl-C."""
    with o.at_work(ValueError, resumes=False):
        from qact.monitor.watch import watch

        watch(store, rate=rate, every=None if once else every)


def _try(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name; a build without it
        raise ValueError(f"device must be cpu, cuda or cuda:N, and here; got {device!r}") from error


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:>20}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
