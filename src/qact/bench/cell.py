"""One cell of the grid from beginning to end: train, then measure what is missing."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qact.bench.adapt import parse_adaptation
from qact.bench.checkpoint import epochs_done
from qact.bench.cost import costs
from qact.bench.evaluate import KEY, Key, Row, evaluate, single_sample_gap
from qact.bench.inputs import Inputs, load_inputs
from qact.bench.recipe import Recipe
from qact.bench.rivals import rival
from qact.bench.train import train_cell
from qact.recalibrate import record

_RECORDED = 200  # training images per batch while source contexts are recorded
TRAINING_WEIGHT = 3  # forward, backward and update cost about three forward passes

Tell = Callable[[int, str], None]  # units of work done, stage


@dataclass(frozen=True)
class Cell:
    """An (activation, seed) pair and the rows that it still owes. Travels to worker processes."""

    recipe: Recipe
    activation: str
    seed: int
    keys: tuple[Key, ...]
    folder: Path
    imports: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell as tables and folders call it."""
        return f"{self.activation}/{self.seed}"

    def work(self, sizes: dict[str, int]) -> int:
        """Return the units of work that are left: images, those of training counted three times.

        What an earlier run did is not among them, so that the pace is that of this run.
        """
        done = epochs_done(self.folder)
        owed = 0 if done is None else self.recipe.training.epochs - done
        return TRAINING_WEIGHT * owed * sizes["train"] + len(self.keys) * sizes["test"]


@dataclass(frozen=True)
class Outcome:
    """Rows of a cell and what they took."""

    rows: list[Row]
    notes: dict[str, Any]


def run_cell(cell: Cell, tell: Tell, device: str = "cpu") -> Outcome:
    """Train (or load, or resume) the network of a cell on a device and measure it there."""
    for module in cell.imports:  # rivals that a user registers
        importlib.import_module(module)
    inputs = load_inputs(cell.recipe.data).to(device)
    trained = train_cell(
        cell.recipe,
        rival(cell.activation),
        cell.seed,
        inputs,
        cell.folder,
        lambda images: tell(TRAINING_WEIGHT * images, "training"),
    )
    begin = time.perf_counter()
    asked = tuple(dict.fromkeys(key[KEY.index("adaptation")] for key in cell.keys))
    make_ready(trained.model, inputs, asked)
    rows = list(
        evaluate(
            trained.model,
            inputs,
            list(cell.keys),
            cell.recipe.shift.seed,
            lambda images: tell(images, "measuring"),
        )
    )
    notes = {
        "history": trained.history,
        "train_seconds": round(sum(epoch["seconds"] for epoch in trained.history), 2),
        "measure_seconds": round(time.perf_counter() - begin, 2),
        "single_sample_gap": single_sample_gap(trained.model, inputs),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "threads": torch.get_num_threads(),
        "device": device,
        "costs": costs(trained.model, inputs, cell.recipe.training, asked),
    }
    return Outcome(rows, notes)


def make_ready(model: nn.Module, inputs: Inputs, adaptations: tuple[str, ...]) -> None:
    """Record the contexts of training images, if an adaptation needs them."""
    if any(parse_adaptation(name).context == "recalibrated" for name in adaptations):
        record(model, inputs.train[0].split(_RECORDED))
