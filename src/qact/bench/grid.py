"""Which cells a folder still owes to a recipe, and whether the recipe fits the folder at all."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from qact.bench.adapt import parse_adaptation
from qact.bench.cell import Cell
from qact.bench.errors import RecipeError
from qact.bench.evaluate import wanted
from qact.bench.inputs import Inputs, load_inputs
from qact.bench.recipe import Recipe
from qact.bench.results import Results, load_results
from qact.bench.rivals import rival


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
    results = load_results(folder)
    _refuse_other(folder, results.recipe.trained(), recipe.trained())
    _refuse_other(folder, results.recipe.shift.seed, recipe.shift.seed, "shift.seed")
    there, here = (r.data.test_limit for r in (results.recipe, recipe))
    _refuse_other(folder, there, here, "data.test_limit")
    for name, now in described.items():
        before = results.activations.get(name, now)
        _refuse_other(folder, before["module"], now["module"], name)
    names = dict.fromkeys((*results.recipe.activations, *recipe.activations))
    seeds = sorted({*results.recipe.seeds, *recipe.seeds})
    results.recipe = replace(recipe, activations=tuple(names), seeds=tuple(seeds))
    results.activations = {**results.activations, **described}
    return results


def _refuse_other(folder: Path, there: Any, here: Any, where: str = "") -> None:
    if isinstance(there, dict):
        for key in dict.fromkeys((*here, *there)):
            _refuse_other(folder, there.get(key), here.get(key), f"{where}.{key}".lstrip("."))
    elif there != here:
        raise RecipeError(
            f"{folder} holds results of another recipe ({where}: {there!r} there, {here!r} here); "
            "choose another --out"
        )


def missing(
    recipe: Recipe, results: Results, folder: Path, imports: tuple[str, ...] = ()
) -> list[Cell]:
    """Return the cells of the recipe that lack rows, in the order in which to run them."""
    present, cells = results.keys(), []
    for activation, seed in recipe.cells():
        keys = tuple(key for key in wanted(recipe, activation, seed) if key not in present)
        if keys:
            place = folder / "cells" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', activation)}-{seed}"
            cells.append(Cell(recipe, activation, seed, keys, place, imports))
    # Controls are the quicker ones: last within a seed, they fill the gaps at the end.
    return sorted(cells, key=lambda c: (recipe.seeds.index(c.seed), rival(c.activation).control))


def checked_inputs(recipe: Recipe) -> Inputs:
    """Return the data set, after looking for what would fail only after training.

    Raises:
        RecipeError: an unknown corruption or data set, or a batch larger than the test set.
    """
    from qact.shift import corruptions

    known = corruptions("all")
    for name in recipe.shift.corruptions:
        if name not in known:
            raise RecipeError(f"unknown corruption {name!r}; known: {', '.join(known)}")
    inputs = load_inputs(recipe.data)
    test = inputs.sizes()["test"]
    for adaptation in recipe.shift.adaptations:
        batch = parse_adaptation(adaptation).batch or 1
        if batch > test:
            raise RecipeError(f"{adaptation} needs {batch} test images, there are {test}")
    return inputs
