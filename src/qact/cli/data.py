"""`qact corrupt` and `qact download`: test sets under shift, made and fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qact.cli import options as o


def corrupt(
    out: Annotated[Path, typer.Option("--out", help="Folder of the .npy files.")],
    data: Annotated[str, typer.Option("--data", help=o.DATA)] = "cifar10",
    corruption: Annotated[
        list[str] | None,
        typer.Option(
            "--corruption", help="Repeat for more; or standard, holdout, own; all by default."
        ),
    ] = None,
    seed: Annotated[int, o.option("--seed", of=int, help="Seed of the random numbers.")] = 0,
    limit: Annotated[
        int | None, o.option("--limit", of=int, help="Test images to use at most.")
    ] = None,
    size: Annotated[
        int | None, o.option("--size", of=int, help="Side in pixels: digits and folders.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of the data; or QACT_DATA.")
    ] = None,
    device: o.Device = "cpu",
    on: o.On = None,
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
        from qact.integrations.cluster import connect

        if limit is not None:
            o.at_least_one("--limit", limit)
        names = expanded(corruption or ["all"])
        if on is None:
            _try(device)
        splits = load(data, size=size, root=root)
        images, labels = (part[:limit] for part in splits.test)
        with connect(on or "here") as cluster, _bars() as bars:
            tasks = {name: bars.add_task(name, total=5 * len(images)) for name in names}
            folder = write_corrupted(
                images,
                labels,
                out,
                names,
                seed=seed,
                device=device,
                on=cluster if on else None,
                tell=lambda name, done, _: bars.update(tasks[name], completed=done),
            )
            for task in tasks.values():  # those that were there already
                bars.update(task, completed=5 * len(images))
        typer.echo(f"{folder}: {len(names)} corruptions of {len(images)} images, 5 severities")


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
