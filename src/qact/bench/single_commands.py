"""``qact train`` and ``qact evaluate``: one network by the loop and the measures of the bench."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from qact.bench import options as o
from qact.bench.devices import devices_of
from qact.bench.errors import RecipeError
from qact.bench.published import print_published
from qact.bench.recipe import Recipe, Shift
from qact.bench.report import write_report
from qact.bench.summary import Summary
from qact.bench.table import print_summary

File = Annotated[Path | None, typer.Argument(help="TOML file with a recipe.")]
Activation = Annotated[str | None, typer.Option("--activation", help="Activation (qact).")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of weights and order (0).")]
Threads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads; PyTorch's choice if not given.")
]
Log = Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard, beside.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]


def train(
    recipe: File = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the checkpoints.")] = None,
    data: o.DataName = None,
    limit: o.Limit = None,
    model: o.ModelName = None,
    width: o.Width = None,
    placement: o.Place = None,
    activation: Activation = None,
    seed: Seed = None,
    preset: o.Preset = None,
    epochs: o.Epochs = None,
    batch: o.Batch = None,
    lr: o.Rate = None,
    loss: o.Loss = None,
    precision: o.Precision = None,
    compiled: o.Compile = False,
    device: Device = "cpu",
    threads: Threads = None,
    log: Log = False,
    module: o.Imports = None,
) -> None:
    """Train one network; run the same command again to go on after an interruption.

    With several processes: torchrun --nproc-per-node 2 -m qact.cli train recipe.toml
    """
    from qact.bench.single import train_network

    console = Console()
    o.look_here()
    with o.plain_errors():
        o.import_all(module)
        flags: dict[str, Any] = {
            "data.name": data,
            "data.limit": limit,
            "model.name": model,
            "model.width_multiplier": width,
            "model.placement": placement,
            "training.epochs": epochs,
            "training.batch": batch,
            "training.lr": lr,
            "training.loss": loss,
            "training.precision": precision,
            "training.compile": compiled or None,
            "activations": None if activation is None else (activation,),
            "seeds": None if seed is None else (seed,),
        }
        base = replace(Recipe(), activations=("qact",), seeds=(0,))
        asked = o.recipe_of(base, recipe, preset, flags)
        if threads is not None:
            if threads < 1:
                raise RecipeError(f"--threads must be at least 1, got {threads}")
            torch.set_num_threads(threads)
        name = f"{Path(asked.data.name).stem}-{asked.model.name}-{asked.activations[0]}"
        folder = out or Path("runs") / "train" / f"{name}-{asked.seeds[0]}"
        place = devices_of(device)[0]
        train_network(asked, folder, device=place, log=log, console=console)


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="weights.safetensors, or its folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write results.csv and report.html there.")
    ] = None,
    adaptation: o.Adaptations = None,
    corruption: o.Corruptions = None,
    severity: o.Severities = None,
    stream: o.Stream = None,
    device: Device = "cpu",
    module: o.Imports = None,
) -> None:
    """Print the table of one trained network under distribution shift."""
    from qact.bench.single import evaluate_network

    console = Console()
    o.look_here()
    with o.plain_errors():
        o.import_all(module)
        flags: dict[str, Any] = {
            "shift.adaptations": adaptation,
            "shift.corruptions": o.corruptions_of(corruption),
            "shift.severities": severity,
            "shift.stream": stream,
        }
        shift: Shift = o.recipe_of(Recipe(), None, None, flags).shift
        results = evaluate_network(checkpoint, shift, devices_of(device)[0])
        summary = Summary(results)
        print_summary(summary, console)
        print_published(summary, console)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            results.environment["command"] = o.command_line()
            results.save(out)
            console.print(f"\n{write_report(summary, out)}", soft_wrap=True, highlight=False)
