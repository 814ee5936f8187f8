"""Train one cell, an (activation, seed) pair, so that stopping it anywhere changes nothing.

All randomness of an epoch follows from (seed, epoch), the learning rate from the step number and
the history, and the checkpoint after each epoch holds weights, buffers and optimiser state. A cell
that was killed goes on from its last epoch and ends with the same weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from qact import checks, models
from qact.bench.data import Inputs
from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.rivals import Rival
from qact.bench.store.files import make_folder, remove_leftovers
from qact.bench.train.checkpoint import BEGUN, FINISHED, History, restore, save, val_scores
from qact.bench.train.distributed import Ranks, synchronised
from qact.bench.train.ema import copy_of
from qact.bench.train.epoch import Advance, Loop
from qact.bench.train.losses import headed
from qact.bench.train.optimizer import optimizer_for
from qact.bench.train.schedules import stalled

Tell = Callable[[int, dict[str, float]], None]  # told each epoch's number and what came of it


@dataclass(frozen=True)
class Trained:
    """A trained network and, per epoch, its loss, validation accuracy and seconds."""

    model: nn.Module
    history: History


def build(recipe: Recipe, rival: Rival, seed: int, inputs: Inputs) -> nn.Module:
    """Return the untrained network: the same initial weights for every activation of a seed."""
    make = partial(
        models.create,
        recipe.model.name,
        in_channels=inputs.test_images.shape[1],
        num_classes=inputs.num_classes,
        image_size=(inputs.test_images.shape[-2], inputs.test_images.shape[-1]),
        placement=recipe.model.placement,
        width_multiplier=recipe.model.width_multiplier,
        normaliser=recipe.model.normaliser,
    )
    try:
        _check_size(make, recipe.model.width_multiplier)
        torch.manual_seed(seed)
        model = make(act=lambda channels: rival.factory(channels))  # a class is a factory too
        return headed(model, recipe.training.loss)
    except ValueError as error:  # images too small for the network, a width of nothing
        raise RecipeError(f"model {recipe.model.name!r}: {error}") from error


def _check_size(make: Callable[..., nn.Module], width: float) -> None:
    """Refuse a width whose weights no memory could hold, before any of them is made."""
    what = f"width_multiplier={width!r}"
    try:
        with torch.device("meta"):
            weights = sum(p.nbytes for p in make(act="relu").parameters())
    except (RuntimeError, OverflowError, MemoryError) as error:  # beyond 64 bits
        raise ValueError(f"{what} makes a network too large for any machine") from error
    checks.room(what, weights)


def train_cell(
    recipe: Recipe,
    rival: Rival,
    seed: int,
    inputs: Inputs,
    folder: Path,
    advance: Advance,
    *,
    ranks: Ranks = Ranks(),  # noqa: B008, it is frozen
    tell: Tell = lambda epoch, entry: None,
) -> Trained:
    """Return the trained network of a cell: loaded if it is finished, resumed if it was begun.

    The weights of the last epoch are the result, or those of the best on validation images where
    the recipe says so; test images are never seen.

    Args:
        recipe: what to train; ``recipe.trained()`` decides the weights.
        rival: the activation.
        seed: seed of the initial weights and of the order of the images.
        inputs: the data, on the device to train on.
        folder: where ``weights.safetensors`` (finished) and ``checkpoint.safetensors`` (begun) lie.
        advance: called after each step with the number of images; not for what was done before.
        ranks: the processes that train together.
        tell: called after each epoch.

    Raises:
        DamagedFileError: a file in ``folder`` is damaged.
        RecipeError: a file in ``folder`` belongs to another recipe, or to other data.
        StorageError: a checkpoint cannot be written; the one before it is kept.
        FloatingPointError: the loss is no longer finite.
    """
    cell = recipe.trained() | {"activation": rival.describe(), "seed": seed}
    data = inputs.print_of("train", "val")
    finished, begun = folder / FINISHED, folder / BEGUN
    if ranks.first:
        make_folder(folder)
        remove_leftovers(begun)
    with _set_apart(inputs.train[0].device):
        plain = build(recipe, rival, seed, inputs).to(inputs.train[0].device)
        with ranks.read(finished) as file:
            if file is not None:
                with _advised():
                    history = restore(file, cell, {"model": plain}, data=data)
                begun.unlink(missing_ok=True)
                return Trained(plain.eval(), history)
        model = synchronised(plain, ranks, inputs.train[0].device)
        kept = _kept(recipe, model)
        optimizer = optimizer_for(model, recipe.training)
        with ranks.read(begun) as file, _advised():
            history = [] if file is None else restore(file, cell, kept, optimizer, data)
        average = kept.get("average")
        loop = Loop(recipe.training, seed, inputs, model, average, optimizer, advance, ranks)
        while not _over(recipe, history):
            history.append(loop.epoch(history))
            tell(len(history), history[-1])
            _keep_best(kept, history)
            if ranks.first:
                save(begun, cell, history, kept, optimizer, data)
        model.load_state_dict(_result(kept).state_dict())
        if ranks.first:
            save(finished, cell, history, {"model": model}, data=data)
            begun.unlink(missing_ok=True)
    return Trained(model.eval(), history)


@contextmanager
def _advised() -> Iterator[None]:
    """Say how a training goes on without the file that cannot be read."""
    try:
        yield
    except DamagedFileError as error:
        advice = "Move it away and run the same command again: only this cell is trained anew"
        raise DamagedFileError(f"{error}. {advice}") from error


def _kept(recipe: Recipe, model: nn.Module) -> dict[str, nn.Module]:
    """Return the networks of a checkpoint: the one that learns, and copies that the recipe asks."""
    kept = {"model": model}
    if recipe.training.ema:
        kept["average"] = copy_of(model)
    if recipe.training.select == "best":
        kept["best"] = copy_of(model)
    return kept


def _over(recipe: Recipe, history: History) -> bool:
    done = len(history) >= recipe.training.epochs
    return done or stalled(val_scores(history), recipe.training.patience)


def _keep_best(kept: dict[str, nn.Module], history: History) -> None:
    """Copy this epoch's network if none before it did better on validation images."""
    scores = val_scores(history)
    if "best" in kept and scores[-1] > max(scores[:-1], default=-1.0):
        kept["best"].load_state_dict(kept.get("average", kept["model"]).state_dict())


def _result(kept: dict[str, nn.Module]) -> nn.Module:
    return kept.get("best", kept.get("average", kept["model"]))


@contextmanager
def _set_apart(device: torch.device) -> Iterator[None]:
    """Seed freely inside, the caller's generator stays; on a GPU, pick kernels that repeat."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        if not cuda:
            yield
            return
        tf32 = torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=tf32):
            yield
