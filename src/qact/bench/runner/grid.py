"""Which cells a folder still owes to a recipe, and whether the recipe fits the folder at all."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.recipe.recipe import USUAL_LOSS, Recipe, difference
from qact.bench.recipe.rivals import rival
from qact.bench.recipe.rows import key_of, mixture, wanted
from qact.bench.recipe.shift import ALL
from qact.bench.runner.cell import Cell
from qact.bench.store.files import load_notes
from qact.bench.store.results import Results, load_results
from qact.bench.train.checkpoint import BEGUN, FINISHED


def opened(recipe: Recipe, folder: Path) -> Results:
    """Return the results in ``folder`` joined with this recipe, or fresh ones.

    Raises:
        RecipeError: the folder's networks were trained otherwise, or an activation changed.
        DamagedFileError: ``results.json`` cannot be read.
    """
    described = {
        name: {"module": entry.describe(), "paper": entry.paper, "control": entry.control}
        for name, entry in ((name, rival(name)) for name in recipe.activations)
    }
    if not (folder / "results.json").exists():
        return Results(recipe, described)
    try:
        results = load_results(folder)
    except DamagedFileError as error:
        raise DamagedFileError(
            f"{error}. Nothing was changed. Move the file away and run the same command again: the "
            "trained weights beside it are kept and only the measurements are repeated"
        ) from error
    _refuse_other(folder, _identity(results.recipe), _identity(recipe))
    for name, now in described.items():
        before = results.activations.get(name, now)
        _refuse_other(folder, before["module"], now["module"], name)
    results.recipe = _both(results.recipe, recipe)
    results.activations = {**results.activations, **described}
    return results


def _identity(recipe: Recipe) -> dict[str, Any]:
    """Return what all networks and rows of a folder have in common."""
    trained = recipe.trained()
    training = {k: v for k, v in trained["training"].items() if k != "loss"}
    rest = {"shift.seed": recipe.shift.seed, "data.test_limit": recipe.data.test_limit}
    return trained | {"training": training} | rest


def _both(there: Recipe, here: Recipe) -> Recipe:
    """Return this recipe with the activations, losses, seeds and shifts of the folder's."""

    def every(name: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys((*getattr(there, name), *getattr(here, name))))

    losses = tuple(dict.fromkeys((*there.every_loss(), *here.every_loss())))
    return replace(
        here.of_losses(losses),
        activations=every("activations"),
        seeds=tuple(sorted(every("seeds"))),
        further=tuple(shift for shift in every("further") if shift != here.shift),
    )


def _refuse_other(folder: Path, there: Any, here: Any, where: str = "") -> None:
    if other := difference(there, here, where):
        raise RecipeError(
            f"{folder} holds results of another recipe ({other}); choose another --out"
        )


def missing(
    recipe: Recipe, results: Results, folder: Path, imports: tuple[str, ...] = ()
) -> list[Cell]:
    """Return the cells of the recipe that lack rows, in the order in which to run them."""
    present = {key_of(row): row for row in results.rows}
    cells = []
    for activation, loss, seed in recipe.cells():
        asked = wanted(recipe, activation, loss, seed)
        for key in asked:
            if key in present and ALL in key:
                over = list(mixture(recipe, key))
                _refuse_other(folder, present[key]["over"], over, "shift.corruptions")
        keys = tuple(key for key in asked if key not in present)
        cell = Cell(recipe, activation, loss, seed, keys, Path(), imports)
        if keys or cell.name not in results.cells:
            place = place_of(folder, activation, loss, seed)
            cells.append(replace(cell, folder=place))
    # Controls are the quicker ones: last within a seed, they fill the gaps at the end.
    return sorted(cells, key=lambda c: (recipe.seeds.index(c.seed), rival(c.activation).control))


def place_of(folder: Path, activation: str, loss: str, seed: int) -> Path:
    """Return the folder of a network's weights.

    The loss stands in its name, unless it is the usual one; or the folder was made before losses
    could be compared, and holds a network of this one.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", activation)
    plain = folder / "cells" / f"{name}-{seed}"
    if loss == (_loss_in(plain) or USUAL_LOSS):
        return plain
    return folder / "cells" / f"{name}+{loss}-{seed}"


def _loss_in(place: Path) -> str | None:
    for file in (FINISHED, BEGUN):
        try:
            return str(json.loads(load_notes(place / file)["cell"])["training"]["loss"])
        except (DamagedFileError, KeyError, ValueError):
            continue  # whoever restores it says what is wrong
    return None
