"""One cell of the grid from beginning to end: train, then measure what is missing."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qact.bench.data import Inputs, load_inputs
from qact.bench.measure.cost import costs
from qact.bench.measure.evaluate import evaluate, single_sample_gap
from qact.bench.measure.metrics import Row
from qact.bench.measure.streams import passed
from qact.bench.recipe.recipe import Recipe, network
from qact.bench.recipe.rivals import rival
from qact.bench.recipe.rows import KEY, Key, mixture
from qact.bench.train.checkpoint import epochs_done
from qact.bench.train.network import train_cell

TRAINING_WEIGHT = 3  # forward, backward and update cost about three forward passes

Tell = Callable[[int, str], None]  # units of work done, stage
Keep = Callable[[list[Row]], None]


@dataclass(frozen=True)
class Cell:
    """One network and the rows that it still owes. Travels to worker processes."""

    recipe: Recipe
    activation: str
    loss: str
    seed: int
    keys: tuple[Key, ...]
    folder: Path
    imports: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell as tables and folders call it."""
        return f"{network(self.activation, self.loss)}/{self.seed}"

    def inputs(self) -> Inputs:
        """Return the data, after importing what a user registers: data sets, rivals."""
        for module in self.imports:
            importlib.import_module(module)
        return load_inputs(self.recipe.data)

    def work(self, sizes: dict[str, int]) -> int:
        """Return the units of work that are left: images, those of training counted three times.

        What an earlier run did is not among them, so that the pace is that of this run.
        """
        done = epochs_done(self.folder)
        owed = 0 if done is None else self.recipe.training.epochs - done
        rows = sum(self._images(key, sizes["test"]) for key in self.keys)
        return TRAINING_WEIGHT * owed * sizes["train"] + rows

    def _images(self, key: Key, test: int) -> int:
        named = dict(zip(KEY, key, strict=True))
        images = min(named["images"] or test, test)
        over = mixture(self.recipe, key)
        return passed(named["stream"], named["corruption"], len(over), images)


@dataclass(frozen=True)
class Outcome:
    """Rows of a cell and what they took."""

    rows: list[Row]
    notes: dict[str, Any]


def run_cell(
    cell: Cell, tell: Tell, device: str = "cpu", keep: Keep = lambda rows: None
) -> Outcome:
    """Train (or load, or resume) the network of a cell on a device and measure it there.

    Args:
        cell: what to do.
        tell: called with the units of work done and the stage.
        device: where.
        keep: called with rows as they come.
    """
    inputs = cell.inputs().to(device)
    recipe = cell.recipe.of_loss(cell.loss)
    trained = train_cell(
        recipe,
        rival(cell.activation),
        cell.seed,
        inputs,
        cell.folder,
        lambda images: tell(TRAINING_WEIGHT * images, "training"),
    )
    begin = time.perf_counter()
    rows: list[Row] = []
    for row in evaluate(
        trained.model,
        inputs,
        list(cell.keys),
        recipe,
        lambda images: tell(images, "measuring"),
    ):
        keep([row])
        rows.append(row)
    notes = {
        "history": trained.history,
        "train_seconds": round(sum(epoch["seconds"] for epoch in trained.history), 2),
        "measure_seconds": round(time.perf_counter() - begin, 2),
        "single_sample_gap": single_sample_gap(trained.model, inputs),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "threads": torch.get_num_threads(),
        "device": device,
        "costs": costs(trained.model, inputs, recipe.training, recipe.shift.adaptations),
    }
    return Outcome(rows, notes)
