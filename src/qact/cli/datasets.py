"""``qact corrupt`` and ``qact download``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from qact.cli.options import Imports, import_all, look_here
from qact.corruptions.registry import expanded
from qact.datasets.data import load
from qact.datasets.download import download as fetch_all
from qact.datasets.writer import write_corrupted

DataName = Annotated[
    str, typer.Option("--data", help="Data set; see `qact list`. Or a folder, or an .npz file.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the .npy files.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--corruption", help="Repeat for more; or standard, holdout, own; all by default."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the random numbers.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Test images to use at most.")]
Size = Annotated[int | None, typer.Option("--size", help="Side in pixels: digits and folders.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder of the data; or QACT_DATA.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]


def corrupt(
    out: Out,
    data: DataName = "cifar10",
    corruption: Names = None,
    seed: Seed = 0,
    limit: Limit = None,
    size: Size = None,
    root: Root = None,
    device: Device = "cpu",
    module: Imports = None,
) -> None:
    """Write corrupted copies of a test set in the layout of CIFAR-10-C.

    Run the same command again to go on after an interruption.
    """
    with _plain_errors():
        look_here()
        import_all(module)
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


def download(
    name: Annotated[str, typer.Argument(help="A public data set; see `qact list`.")],
    root: Annotated[Path, typer.Argument(help="Folder; set QACT_DATA to it afterwards.")],
) -> None:
    """Download a public data set, checked; the same command goes on after an interruption."""
    with _plain_errors(), _bars() as bars:
        started: dict[str, TaskID] = {}

        def tell(file: str, done: int, whole: int | None) -> None:
            if file not in started:
                started[file] = bars.add_task(file, total=None)
            bars.update(started[file], completed=done, total=whole)

        fetch_all(name, root, tell)


def _try(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name; a build without it
        raise ValueError(f"device must be cpu, cuda or cuda:N, and here; got {device!r}") from error


def _bars() -> Progress:
    columns = (TextColumn("{task.description:>20}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"qact: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("qact: stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
