"""``qact bench --faults``: accuracy against the bit-error rate, for every activation.

The networks are those of the bench, trained and stored in its folder. Bits of the weights, or of
the outputs of the activations, are flipped with a given probability, and the clean test images are
classified with the statistics of training. Beside each ReLU network stand three copies whose ReLUs
were bounded after training, on training images: FT-ClipAct, FitAct and ProAct.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from qact.activations.faults import faulty
from qact.activations.resilience import (
    Batches,
    accuracy,
    clip_search_,
    fit_bounds_,
    progressive_bounds_,
    under_faults,
)
from qact.bench.data import Inputs, load_inputs
from qact.bench.recipe.recipe import Recipe, network
from qact.bench.recipe.rivals import rival
from qact.bench.runner.grid import place_of
from qact.bench.store.files import write_atomically
from qact.bench.train.network import train_cell

RATES = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
WHERE = ("weights", "activations")
CALIBRATION = 500  # training images that the bounds are found on

Row = dict[str, Any]
Protection = Callable[[nn.Module, Batches], nn.Module]


def _clipped(model: nn.Module, batches: Batches) -> nn.Module:
    # Faults rare enough that some layers survive: on a small network 1e-5 and more.
    score = under_faults(batches[:2], rates=(1e-5, 1e-4), trials=4)
    return clip_search_(model, batches, score, rounds=2)


PROTECTIONS: dict[str, Protection] = {
    "clipact": _clipped,
    "fitact": fit_bounds_,
    "proact": progressive_bounds_,
}


def measure_faults(
    recipe: Recipe,
    folder: Path,
    trials: int = 20,
    rates: tuple[float, ...] = RATES,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Return one row per network, place and rate, and write them to ``folder/faults.json``.

    A row holds the mean accuracy over ``trials`` draws of faults, and the least. The draws are the
    same for all networks of one size. Rows that the file has already are kept.
    """
    path = folder / "faults.json"
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(row["activation"], row["seed"]) for row in rows}
    inputs = load_inputs(recipe.data)
    for name, loss, seed in recipe.cells():
        for label, model in _networks(recipe.of_loss(loss), name, seed, inputs, folder, done):
            rows += _measured(model, label, seed, inputs, trials, rates)
            text = json.dumps(
                {"trials": trials, "recipe": recipe.trained(), "rows": rows}, indent=1
            )
            write_atomically(path, text.encode())
            tell(f"{label}/{seed}")
    return rows


def _networks(
    recipe: Recipe, name: str, seed: int, inputs: Inputs, folder: Path, done: set[tuple[str, int]]
) -> Iterator[tuple[str, nn.Module]]:
    """The trained network of a cell; for ReLU also its protected copies."""
    own = network(name, recipe.training.loss)
    labels = [own, *(f"{own}+{p}" for p in PROTECTIONS if name == "relu")]
    if all((label, seed) in done for label in labels):
        return
    place = place_of(folder, name, recipe.training.loss, seed)
    model = train_cell(recipe, rival(name), seed, inputs, place, lambda n: None).model
    images, targets = (t[:CALIBRATION] for t in inputs.train)
    batches = list(zip(images.split(50), targets.split(50), strict=True))
    for label in labels:
        if (label, seed) not in done:
            protect = PROTECTIONS.get(label.partition("+")[2])
            twin = copy.deepcopy(model)
            yield label, twin if protect is None else protect(twin, batches)


def _measured(
    model: nn.Module, label: str, seed: int, inputs: Inputs, trials: int, rates: tuple[float, ...]
) -> Iterator[Row]:
    images = inputs.shifted("none", 0, 0)
    batches = list(zip(images.split(100), inputs.test_labels.split(100), strict=True))
    for where in WHERE:
        for rate in rates:
            found = []
            for trial in range(trials if rate else 1):
                with faulty(model, rate, where=where, seed=1000 * seed + trial):
                    found.append(accuracy(model, batches))
            yield {
                "activation": label,
                "seed": seed,
                "where": where,
                "rate": rate,
                "trials": len(found),
                "accuracy": fmean(found),
                "worst": min(found),
            }


def by_rate(rows: list[Row]) -> dict[str, dict[float, float]]:
    """Return the mean accuracy over seeds per activation and rate, the most resilient first."""
    found: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        found.setdefault(row["activation"], {}).setdefault(row["rate"], []).append(row["accuracy"])
    means = {name: {r: fmean(v) for r, v in rates.items()} for name, rates in found.items()}
    return dict(sorted(means.items(), key=lambda item: -sum(item[1].values())))
