"""`qact monitor`: what a monitored model has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qact import checks
from qact.cli import options as o

monitoring = typer.Typer(no_args_is_help=True, help="What a monitored model has seen.")
Windows = Annotated[Path, typer.Argument(help="Folder of windows, as Monitor(store=...) has it.")]
Page = Annotated[Path, typer.Option("--out", help="The page to write.")]
Rate = Annotated[float, o.option("--rate", of=float, help="Share of false alarms to mark.")]


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
    every: Annotated[float, o.option("--every", of=float, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
) -> None:
    """Show the latest windows in the terminal until Ctrl-C."""
    with o.at_work(ValueError, resumes=False):
        from qact.monitor.watch import watch

        checks.number("--every", every, "seconds, at least 0.1", 0.0999)
        watch(store, rate=rate, every=None if once else every)
