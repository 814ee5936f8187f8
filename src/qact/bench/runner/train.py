"""One network trained with progress: alone, or in several processes under ``torchrun``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from qact.bench.data import load_inputs
from qact.bench.errors import RecipeError
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.rivals import rival
from qact.bench.runner.progress import Watch, tensorboard
from qact.bench.store.files import alone, make_folder
from qact.bench.train.checkpoint import FINISHED, epochs_done
from qact.bench.train.distributed import joined
from qact.bench.train.network import Trained, train_cell


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
