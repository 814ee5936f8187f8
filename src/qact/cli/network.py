"""``qact train`` and ``qact evaluate``: one network by the loop and the measures of the bench."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from qact.bench.errors import RecipeError
from qact.bench.recipe.recipe import Recipe
from qact.bench.report.html import write_report
from qact.bench.report.summary import Summary
from qact.bench.report.terminal import print_all
from qact.bench.runner.devices import devices_of
from qact.bench.store.files import make_folder
from qact.cli import options as o
from qact.cli.recipe_options import NETWORK, ONE_LOSS, SHIFT, TRAINING, Flags, recipe_options

File = Annotated[Path | None, typer.Argument(help="TOML file with a recipe.")]
Activation = Annotated[str | None, typer.Option("--activation", help="Activation (qact).")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of weights and order (0).")]
Threads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads; PyTorch's choice if not given.")
]
Log = Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard, beside.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]


@recipe_options(NETWORK | TRAINING | ONE_LOSS)
def train(
    flags: Flags,
    recipe: File = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the checkpoints.")] = None,
    activation: Activation = None,
    seed: Seed = None,
    preset: o.Preset = None,
    device: Device = "cpu",
    threads: Threads = None,
    log: Log = False,
    module: o.Imports = None,
) -> None:
    """Train one network; run the same command again to go on after an interruption.

    With several processes: torchrun --nproc-per-node 2 -m qact.cli train recipe.toml
    """
    from qact.bench.measure.single import train_network

    flags |= {
        "activations": None if activation is None else (activation,),
        "seeds": None if seed is None else (seed,),
    }
    asked = o.recipe_of(replace(Recipe(), activations=("qact",), seeds=(0,)), recipe, preset, flags)
    if threads is not None:
        if threads < 1:
            raise RecipeError(f"--threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    name = f"{Path(asked.data.name).stem}-{asked.model.name}-{asked.activations[0]}"
    folder = out or Path("runs") / "train" / f"{name}-{asked.seeds[0]}"
    train_network(asked, folder, device=devices_of(device)[0], log=log, console=Console())


@recipe_options(SHIFT)
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
    from qact.bench.measure.single import evaluate_network

    console = Console()
    shift = o.recipe_of(Recipe(), None, None, flags).shift
    results = evaluate_network(checkpoint, shift, devices_of(device)[0])
    summary = Summary(results)
    print_all(summary, console)
    if out is not None:
        make_folder(out)
        results.environment["command"] = o.command_line()
        results.save(out)
        console.print(f"\n{write_report(summary, out)}", soft_wrap=True, highlight=False)
