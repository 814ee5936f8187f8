"""The commands of ``qact`` as one program; each is a function of the modules beside."""

from __future__ import annotations

from typing import Annotated

import typer

from qact import __version__
from qact.cli.benches import bench, report
from qact.cli.data import corrupt, download
from qact.cli.lists import list_names
from qact.cli.monitor import monitoring
from qact.cli.networks import evaluate, train

commands = typer.Typer(
    help="Activations that know their context, and the bench that measures them.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


for _function in (bench, train, evaluate, report):
    commands.command()(_function)
commands.command("list")(list_names)
for _function in (corrupt, download):
    commands.command()(_function)
commands.add_typer(monitoring, name="monitor")
