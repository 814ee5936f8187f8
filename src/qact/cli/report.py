"""``qact report`` and ``qact list``: what was found, and what can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qact.bench.errors import BenchError
from qact.bench.recipe.presets import PRESETS
from qact.bench.recipe.rivals import list_rivals
from qact.bench.recipe.shift import STREAMS
from qact.bench.report.html import write_report
from qact.bench.report.summary import Summary
from qact.bench.report.terminal import print_all
from qact.bench.store.files import make_folder
from qact.bench.store.join import side_by_side
from qact.bench.store.results import load_results
from qact.bench.train.losses import LOSSES
from qact.cli import options as o


def show(folder: Path, console: Console) -> None:
    """Print the tables of a folder and write its report."""
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
    """Print the tables of one bench or several again, and rewrite report.html.

    Benches of one recipe become one table. Those of different data, networks or recipes have
    tables of their own, one below the other: their numbers cannot be compared within one.
    """
    console = Console()
    with o.plain_errors():
        if len(folders) == 1 and out is None:
            show(folders[0], console)
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
                make_folder(place)
                group.results.save(place)
                path = write_report(summary, place)
                console.print(f"\n{path}", soft_wrap=True, highlight=False)


def list_names() -> None:
    """List everything that can be asked for: activations, data, losses, methods, streams."""
    from qact.adapt import methods
    from qact.corruptions import corruptions
    from qact.datasets import names as data_sets
    from qact.models import MODELS

    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for entry in list_rivals():
        table.add_row(entry.name, "control" if entry.control else "", entry.paper)
    console.print("[bold]activations[/] (--activation)")
    console.print(table)
    for title, names in (
        ("corruptions[/] (--corruption)", corruptions("all") + corruptions("own")),
        ("data[/] (--data)", data_sets(shifted=False)),
        ("test sets under shift[/]", data_sets(shifted=True)),
        ("models[/] (--model)", MODELS),
        ("training recipes[/] (--preset)", PRESETS),
        ("losses[/] (--loss)", LOSSES),
        ("adaptations[/] (--adaptation)", ("frozen", "batch-N", "mixed-N", "recalibrated-N")),
        ("methods of qact.adapt[/] (--adaptation METHOD-N)", methods()),
        ("streams[/] (--stream)", STREAMS),
    ):
        console.print(f"\n[bold]{title}")
        console.print(", ".join(names), highlight=False)
