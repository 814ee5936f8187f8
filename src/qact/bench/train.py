"""Train one cell, an (activation, seed) pair, so that stopping it anywhere changes nothing.

All randomness of an epoch follows from (seed, epoch), the learning rate from the step number, and
the checkpoint after each epoch holds weights, buffers and optimiser state. A cell that was killed
goes on from its last epoch and ends with the same weights, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from qact import models
from qact.bench.checkpoint import History, restore, save
from qact.bench.errors import RecipeError
from qact.bench.inputs import Inputs, permutation
from qact.bench.objective import Objective, objective
from qact.bench.optimize import one_cycle, optimizer_for
from qact.bench.recipe import Recipe, Training
from qact.bench.rivals import Rival

Advance = Callable[[int], None]  # told how many images were passed


@dataclass(frozen=True)
class Trained:
    """A trained network and, per epoch, its loss, validation accuracy and seconds."""

    model: nn.Module
    history: History


def build(recipe: Recipe, rival: Rival, seed: int, inputs: Inputs) -> nn.Module:
    """Return the untrained network: the same initial weights for every activation of a seed."""
    torch.manual_seed(seed)
    try:
        return models.build(
            recipe.model.name,
            in_channels=inputs.test_images.shape[1],
            num_classes=inputs.num_classes,
            image_size=inputs.test_images.shape[-1],
            act=rival.factory,
            placement=recipe.model.placement,
            width_multiplier=recipe.model.width_multiplier,
        )
    except ValueError as error:  # images too small for the network, a width of nothing
        raise RecipeError(f"model {recipe.model.name!r}: {error}") from error


def train_cell(
    recipe: Recipe, rival: Rival, seed: int, inputs: Inputs, folder: Path, advance: Advance
) -> Trained:
    """Return the trained network of a cell: loaded if it is finished, resumed if it was begun.

    The last epoch's weights are the result; validation images are only watched, and test images
    never seen.

    Args:
        recipe: what to train; ``recipe.trained()`` decides the weights.
        rival: the activation.
        seed: seed of the initial weights and of the order of the images.
        inputs: the data.
        folder: where ``weights.safetensors`` (finished) and ``checkpoint.safetensors`` (begun) lie.
        advance: called after each step with the number of images.

    Raises:
        DamagedFileError: a file in ``folder`` is damaged.
        RecipeError: a file in ``folder`` belongs to another recipe.
        FloatingPointError: the loss is no longer finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cell = recipe.trained() | {"activation": rival.describe(), "seed": seed}
    finished, begun = folder / "weights.safetensors", folder / "checkpoint.safetensors"
    with torch.random.fork_rng(devices=[]):  # seed freely inside, the caller's generator stays
        model = build(recipe, rival, seed, inputs)
        if finished.exists():
            history = restore(finished, cell, model)
            advance(len(history) * len(inputs.train[1]))
            return Trained(model.eval(), history)
        optimizer = optimizer_for(model, recipe.training)
        history = restore(begun, cell, model, optimizer) if begun.exists() else []
        advance(len(history) * len(inputs.train[1]))
        for epoch in range(len(history), recipe.training.epochs):
            history.append(_epoch(model, optimizer, inputs, recipe.training, seed, epoch, advance))
            save(begun, cell, history, model, optimizer)
        save(finished, cell, history, model)
        begun.unlink()
    return Trained(model.eval(), history)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    training: Training,
    seed: int,
    epoch: int,
    advance: Advance,
) -> dict[str, float]:
    images, labels = inputs.train
    steps = len(labels) // training.batch
    if not steps:
        raise RecipeError(f"batch {training.batch} is larger than {len(labels)} training images")
    torch.manual_seed(seed * 100_003 + epoch)  # dropout and the like, if a network has any
    begin, total = time.perf_counter(), 0.0
    loss = objective(training.loss, training.label_smoothing)
    model.train()
    # The last, incomplete batch is left out: its statistics would be those of a few images.
    batches = permutation(len(labels), seed, epoch).split(training.batch)[:steps]
    for step, batch in enumerate(batches, start=epoch * steps):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(step, training.epochs * steps, training.lr)
        total += _step(model, optimizer, images[batch], labels[batch], loss)
        advance(len(batch))
    seconds = time.perf_counter() - begin
    return {
        "loss": total / steps,
        "val_accuracy": _val_accuracy(model, inputs),
        "seconds": round(seconds, 3),
    }


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, objective: Objective
) -> float:
    loss = objective(model, x, y)
    value = loss.item()
    if value != value or value in (float("inf"), float("-inf")):
        raise FloatingPointError(f"the training loss became {value}; a lower lr may help")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return value


@torch.inference_mode()
def _val_accuracy(model: nn.Module, inputs: Inputs) -> float:
    model.eval()
    hits, (images, labels) = 0, inputs.val
    for x, y in zip(images.split(100), labels.split(100), strict=True):
        hits += int((model(x).argmax(1) == y).sum())
    return hits / max(1, len(labels))
