"""`qact train` and `qact evaluate`: one network, and one checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from qact.cli import options as o
from qact.cli.fitted import say_fitted, trainable
from qact.cli.options import Flags, recipe_options


@recipe_options(o.NETWORK | o.TRAINING | o.ONE_LOSS)
def train(
    flags: Flags,
    recipe: Annotated[Path | None, typer.Argument(help="TOML file with a recipe.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the checkpoints.")] = None,
    activation: Annotated[
        str | None, typer.Option("--activation", help="Activation (qact).")
    ] = None,
    seed: Annotated[
        int | None, o.option("--seed", of=int, help="Of weights and order (0).")
    ] = None,
    preset: o.Preset = None,
    device: o.Device = "cpu",
    threads: Annotated[
        int | None,
        o.option("--threads", of=int, help="CPU threads; PyTorch's choice if not given."),
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

    if threads is not None:  # many more than there are processors end the process
        most = max(64, os.cpu_count() or 1)
        torch.set_num_threads(o.at_least_one("--threads", threads, most))
    flags |= {
        "activations": None if activation is None else (activation,),
        "seeds": None if seed is None else (seed,),
    }
    base = replace(Recipe(), activations=("qact",), seeds=(0,))
    console = Console(
        quiet=os.environ.get("RANK", "0") != "0"
    )  # one of torchrun's processes speaks
    usual = recipe_of(base, None, preset, {})
    asked = trainable(recipe_of(base, recipe, preset, flags), usual, console)
    what = (Path(asked.data.name).stem, asked.model.name, flags["model.normaliser"])
    name = "-".join(filter(None, (*what, asked.activations[0], str(asked.seeds[0]))))
    folder = out or Path("runs") / "train" / name
    train_network(asked, folder, device=devices_of(device)[0], log=log, console=console)


@recipe_options(o.SHIFT, resumes=False)
def evaluate(
    flags: Flags,
    checkpoint: Annotated[Path, typer.Argument(help="weights.safetensors, or its folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write results.csv and report.html there.")
    ] = None,
    device: o.Device = "cpu",
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
    if out is not None:  # before it is measured
        make_folder(out)
    fit = shift.adaptations == Recipe().shift.adaptations
    results = evaluate_network(checkpoint, shift, devices_of(device)[0], fit=fit)
    images = results.environment["images"]["test"]
    what, fitted = f"{images} test images: adaptations", results.recipe.shift
    say_fitted(what, shift.adaptations, fitted.adaptations, console)
    summary = Summary(results)
    print_all(summary, console)
    if out is not None:
        results.environment["command"] = o.command_line()
        results.save_beside(out)
        console.print(f"\n{write_report(summary, out)}", soft_wrap=True, highlight=False)
