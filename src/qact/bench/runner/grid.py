"""Which cells a folder still owes to a recipe, and whether the recipe fits the folder at all."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qact.bench.data import Inputs, load_inputs
from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.measure.method import create
from qact.bench.recipe.adaptations import check_adaptation, parse_adaptation
from qact.bench.recipe.recipe import USUAL_LOSS, Recipe
from qact.bench.recipe.rivals import rival
from qact.bench.recipe.rows import key_of, mixture, wanted
from qact.bench.recipe.shift import ALL
from qact.bench.recipe.values import difference
from qact.bench.runner.cell import Cell
from qact.bench.store.files import load_notes
from qact.bench.store.results import Results, load_results
from qact.bench.train.checkpoint import BEGUN, FINISHED
from qact.bench.train.network import build

_FEW = 16  # images to try a method with


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


def checked_inputs(recipe: Recipe) -> Inputs:
    """Return the data set, after looking for what would fail only after training.

    Raises:
        RecipeError: an unknown corruption, adaptation or data set, or a batch larger than the test
            set.
    """
    from qact.corruptions.registry import known

    for name in (name for shift in recipe.shifts() for name in shift.corruptions):
        try:
            known(name)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    asked = dict.fromkeys(name for shift in recipe.shifts() for name in shift.adaptations)
    for name in asked:
        check_adaptation(name)
    inputs = load_inputs(recipe.data)
    for shift in recipe.shifts():
        test = inputs.first(shift.images).sizes()["test"]
        for adaptation in shift.adaptations:
            batch = parse_adaptation(adaptation).batch or 1
            if batch > test:
                raise RecipeError(f"{adaptation} needs {batch} test images, there are {test}")
    _try_methods(recipe, inputs, list(asked))
    return inputs


def _try_methods(recipe: Recipe, inputs: Inputs, names: list[str]) -> None:
    """Make every method once for an untrained network: it refuses options and layers."""
    kinds = [kind for kind in map(parse_adaptation, names) if kind.context is None]
    if not kinds:
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = build(recipe, rival(recipe.activations[0]), 0, inputs)
        model(inputs.train[0][:_FEW])  # statistics
    for kind in kinds:
        create(kind, model.eval(), inputs, source=_FEW)
