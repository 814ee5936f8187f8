"""``qact bench --drift``: which layer costs accuracy under which corruption, for every activation.

The networks are those of the bench, trained and stored in its folder, frozen. Under each corruption
at its strongest severity every norm and QAct layer in turn has its context put right alone, see
:func:`qact.explain_drift`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from qact.bench.data import load_inputs
from qact.bench.recipe.recipe import Recipe, network
from qact.bench.recipe.rivals import rival
from qact.bench.runner.grid import place_of
from qact.bench.store.files import write_atomically
from qact.bench.train.network import train_cell
from qact.taps import explain_drift
from qact.taps.report import spearman

FILE, BATCH = "drift.json", 100
Row = dict[str, Any]
Layers = dict[str, dict[str, float]]  # the accuracy brought back, by layer and corruption


def measure_drift(
    recipe: Recipe, folder: Path, tell: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """Return one row per network, corruption and layer, and write them to ``folder/drift.json``.

    Rows that the file has already are kept.
    """
    rows = load_drift(folder)
    done = {(row["activation"], row["seed"], row["corruption"]) for row in rows}
    inputs, severity = load_inputs(recipe.data), max(recipe.shift.severities)
    chosen = slice(recipe.shift.images or None)
    labels = inputs.test_labels[chosen]
    clean = inputs.shifted("none", 0, 0)[chosen]
    for name, loss, seed in recipe.cells():
        of = recipe.of_loss(loss)
        label = network(name, of.training.loss)
        owed = [c for c in recipe.shift.corruptions if (label, seed, c) not in done]
        if not owed:
            continue
        place = place_of(folder, name, of.training.loss, seed)
        model = train_cell(of, rival(name), seed, inputs, place, lambda n: None).model
        for corruption in owed:
            bad = inputs.shifted(corruption, severity, recipe.shift.seed)[chosen]
            pairs = [
                list(zip(x.split(BATCH), labels.split(BATCH), strict=True)) for x in (clean, bad)
            ]
            found = explain_drift(model, *pairs, restore="context")
            for layer in found.layers:
                rows.append({
                    "activation": label, "seed": seed, "corruption": corruption,
                    "severity": severity, "layer": layer.name, "ks": layer.ks,
                    "accuracy": layer.restored.accuracy - found.shifted.accuracy,
                    "lost": found.clean.accuracy - found.shifted.accuracy,
                })  # fmt: skip
            text = json.dumps({"recipe": recipe.trained(), "rows": rows}, indent=1)
            write_atomically(folder / FILE, text.encode())
        tell(f"{label}/{seed}")
    return rows


def load_drift(folder: Path) -> list[Row]:
    """Rows of a folder; none where nothing was measured."""
    path = folder / FILE
    return json.loads(path.read_text())["rows"] if path.exists() else []


def by_layer(rows: list[Row]) -> dict[str, Layers]:
    """Per activation, the accuracy that each layer brings back, mean over seeds."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        layers = found.setdefault(row["activation"], {})
        cell = layers.setdefault(row["layer"], {}).setdefault(row["corruption"], [])
        cell.append(row["accuracy"])
    return {
        name: {layer: {c: fmean(v) for c, v in of.items()} for layer, of in layers.items()}
        for name, layers in found.items()
    }


def correlations(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Spearman's correlation of distance and accuracy brought back, per activation and corruption.

    The mean over seeds.
    """
    cells: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for row in rows:
        seeds = cells.setdefault((row["activation"], row["corruption"]), {})
        seeds.setdefault(row["seed"], []).append(row)
    found: dict[str, dict[str, float]] = {}
    for (activation, corruption), seeds in cells.items():
        each = [spearman([r["ks"] for r in c], [r["accuracy"] for r in c]) for c in seeds.values()]
        found.setdefault(activation, {})[corruption] = fmean(each)
    return found
