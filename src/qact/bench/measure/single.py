"""One network: trained by the loop of the bench, alone or with ``torchrun``, and measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from json import loads
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from qact.bench.data import load_inputs
from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.measure.cost import costs
from qact.bench.measure.evaluate import evaluate, single_sample_gap
from qact.bench.recipe.recipe import Recipe, network
from qact.bench.recipe.rivals import rival
from qact.bench.recipe.rows import wanted
from qact.bench.recipe.shift import Shift
from qact.bench.recipe.subject import Data, Model
from qact.bench.recipe.training import Training
from qact.bench.runner.grid import checked_inputs
from qact.bench.runner.watch import Watch, tensorboard
from qact.bench.store.files import load_notes, make_folder
from qact.bench.store.lock import alone
from qact.bench.store.results import Results
from qact.bench.train.checkpoint import FINISHED, epochs_done, restore
from qact.bench.train.distributed import joined
from qact.bench.train.network import Trained, build, train_cell


def train_network(
    recipe: Recipe, folder: Path, *, device: str = "cpu", log: bool = False, console: Console
) -> Trained:
    """Train the one network of a recipe; go on if it was begun, load it if it is finished.

    Args:
        recipe: with one activation and one seed.
        folder: for ``weights.safetensors``, and ``checkpoint.safetensors`` while it is trained.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; under ``torchrun`` each process has its own.
        log: also write TensorBoard's files into ``folder/tensorboard``.
        console: where to say how far it is.

    Raises:
        RecipeError: the recipe has more than one network, or does not fit ``folder``.
    """
    cells = recipe.cells()
    if len(cells) != 1:
        raise RecipeError(
            f"qact train trains one network, the recipe has {len(cells)}: activations "
            f"{', '.join(recipe.activations)}; losses {', '.join(recipe.every_loss())}; seeds "
            f"{', '.join(map(str, recipe.seeds))}. Choose with --activation, --loss and --seed, or "
            "use qact bench"
        )
    name, loss, seed = cells[0]
    recipe, entry = recipe.of_loss(loss), rival(name)
    with joined(device) as (ranks, place), ExitStack() as stack:
        inputs = load_inputs(recipe.data).to(place)
        if ranks.first:
            make_folder(folder)
            stack.enter_context(alone(folder))
        begun = epochs_done(folder)
        done = recipe.training.epochs if begun is None else begun
        write = (
            stack.enter_context(tensorboard(folder / "tensorboard", done))
            if (log and ranks.first)
            else None
        )
        speak = console if ranks.first else Console(quiet=True)
        watch = stack.enter_context(
            Watch(speak, recipe.training.epochs, done, len(inputs.train[1]), write)
        )
        trained = train_cell(
            recipe, entry, seed, inputs, folder, watch.advance, ranks=ranks, tell=watch.tell
        )
    epochs = len(trained.history)
    before = f" was finished by an earlier run: {epochs} epochs" if begun is None else ""
    speak.print(f"{folder / FINISHED}{before}", soft_wrap=True, highlight=False, markup=False)
    return trained


def opened(path: Path, device: str = "cpu") -> tuple[nn.Module, Recipe, Any]:
    """Return the network of a checkpoint, what it was trained with, and its data.

    Raises:
        DamagedFileError: the file cannot be read, or was not written by a training.
        FileNotFoundError: there is none.
    """
    path = path / FINISHED if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        cell = loads(load_notes(path)["cell"])
        recipe = Recipe(
            data=Data(**cell["data"]),
            model=Model(**cell["model"]),
            training=Training(**cell["training"]),
            activations=(cell["activation"].partition(": ")[0],),
            seeds=(cell["seed"],),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is no checkpoint of qact train: {error!r}") from error
    entry = rival(recipe.activations[0])
    if entry.describe() != cell["activation"]:
        raise RecipeError(
            f"{path} was trained with {cell['activation']}, which is now {entry.describe()}"
        )
    inputs = load_inputs(recipe.data)
    with torch.random.fork_rng(devices=[]):
        model = build(recipe, entry, recipe.seeds[0], inputs)
    restore(path, cell, {"model": model})
    return model.to(device).eval(), recipe, inputs.to(device)


def evaluate_network(path: Path, shift: Shift, device: str = "cpu") -> Results:
    """Measure the network of a checkpoint under distribution shift, as the bench does."""
    model, recipe, inputs = opened(path, device)
    recipe = replace(recipe, shift=shift)
    checked_inputs(recipe)
    (name, loss, seed), entry = recipe.cells()[0], rival(recipe.activations[0])
    described = {"module": entry.describe(), "paper": entry.paper, "control": entry.control}
    results = Results(recipe, {name: described}, {"images": inputs.sizes()})
    keys = wanted(recipe, name, loss, seed)
    with _one_seed():
        rows = list(evaluate(model, inputs, keys, recipe, lambda images: None))
        notes = {
            "history": [],
            "train_seconds": 0.0,
            "single_sample_gap": single_sample_gap(model, inputs),
            "parameters": sum(p.numel() for p in model.parameters()),
            "costs": costs(model, inputs, recipe.training, shift.adaptations),
        }
    results.add(rows, f"{network(name, loss)}/{seed}", notes)
    return results


@contextmanager
def _one_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
