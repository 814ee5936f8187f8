"""Trained networks to rows.

One row is one (activation, loss, adaptation, stream, corruption, severity, seed, images) with its
metrics, its time per batch and the memory that is kept from batch to batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from json import loads
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qact import adapt
from qact.bench.data import Inputs, load_inputs
from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.measure.adapt import create, deal, dealing, walk
from qact.bench.measure.cost import Clock, costs, held
from qact.bench.measure.metrics import Row, measure
from qact.bench.measure.streams import Passage, arrival, passed
from qact.bench.recipe.adaptations import Adaptation, check_adaptation, parse_adaptation
from qact.bench.recipe.recipe import Data, Model, Recipe, network
from qact.bench.recipe.rivals import rival
from qact.bench.recipe.rows import KEY, Key, mixture, wanted
from qact.bench.recipe.shift import ALL, Shift
from qact.bench.recipe.training import Training
from qact.bench.store.files import load_notes
from qact.bench.store.results import Results
from qact.bench.train.checkpoint import FINISHED, restore
from qact.bench.train.network import build

_FEW = 16
_CHUNK = 200  # images per batch where batches have no meaning


def evaluate(
    model: nn.Module,
    inputs: Inputs,
    keys: list[Key],
    recipe: Recipe,
    advance: Callable[[int], None],
) -> Iterator[Row]:
    """Yield one row per key, method by method: each is made once, and reset for every row."""
    model.zero_grad(set_to_none=True)  # what training has left is not held by a method
    for kind, dealt, mine in _by_kind(keys):
        method = _method(kind, dealt, model, inputs)
        for key in mine:
            named, over = dict(zip(KEY, key, strict=True)), mixture(recipe, key)
            part = inputs.first(named["images"])
            if dealt:
                row = _dealt(method, part, named, recipe.shift.seed)
            else:
                row = _walked(method, part, named, over, recipe.shift.seed)
            yield named | row | ({"over": list(over)} if named["corruption"] == ALL else {})
            images = len(part.test_labels)
            advance(passed(named["stream"], named["corruption"], len(over), images))


def _by_kind(keys: list[Key]) -> list[tuple[Adaptation, bool, list[Key]]]:
    """Return the keys that deal the test set into batches, then those of each method."""
    groups: dict[tuple[bool, str], tuple[Adaptation, bool, list[Key]]] = {}
    for key in keys:
        named = dict(zip(KEY, key, strict=True))
        kind = parse_adaptation(named["adaptation"])
        dealt = kind.deals(named["stream"])
        groups.setdefault((dealt, kind.kind), (kind, dealt, []))[2].append(key)
    return sorted(groups.values(), key=lambda group: not group[1])


def _method(kind: Adaptation, dealt: bool, model: nn.Module, inputs: Inputs) -> adapt.Method:
    """Return what predicts, ready for its first batch."""
    if dealt:
        return dealing(kind, model, inputs.train[0])
    method = create(kind, model, inputs)
    method(inputs.train[0][:_FEW])  # compiles, so that the first row does not pay for it
    return method


def _dealt(method: adapt.Method, inputs: Inputs, named: dict[str, Any], noise: int) -> Row:
    """Measure an adaptation of the bench's own on the whole test set of one condition."""
    images = inputs.shifted(named["corruption"], named["severity"], noise)
    order = arrival(named["stream"], inputs.test_labels.cpu(), named["seed"])
    clock = Clock(images.device)
    logits = deal(method, images, parse_adaptation(named["adaptation"]), order, clock)
    # What it starts from is no memory of the stream: it holds the network.
    return measure(logits.cpu(), inputs.test_labels.cpu()) | _costs(clock, method.model)


def _walked(
    method: adapt.Method, inputs: Inputs, named: dict[str, Any], over: tuple[str, ...], noise: int
) -> Row:
    """Measure a method on a stream."""
    passage = Passage(named["stream"], over, named["severity"], named["seed"], noise)
    batch = parse_adaptation(named["adaptation"]).batch or _CHUNK
    clock = Clock(inputs.test_images.device)
    logits, labels = walk(method, inputs, passage, batch, clock)
    return measure(logits, labels) | {"mode": method.mode} | _costs(clock, method)


def _costs(clock: Clock, owner: object) -> Row:
    return {"ms_per_batch": clock.median_ms(), "held_kib": round(held(owner) / 1024, 1)}


def single_sample_gap(model: nn.Module, inputs: Inputs, count: int = 32) -> float:
    """Return how far logits of images predicted one by one are from those of the frozen batch.

    It says that ``frozen`` rows are what single samples get; rounding alone should remain. In
    float64, since a step rank turns the rounding of float32 into a step.
    """
    method = dealing(parse_adaptation("frozen"), model).double()
    images = inputs.shifted("none", 0, 0)[:count].double()
    alone = torch.cat([method(image[None]) for image in images])
    return (method(images) - alone).abs().max().item()


def opened(path: Path, device: str = "cpu") -> tuple[nn.Module, Recipe, Any]:
    """Return the network of a checkpoint, what it was trained with, and its data.

    Raises:
        DamagedFileError: the file cannot be read, or was not written by a training.
        FileNotFoundError: there is none.
    """
    path = path / FINISHED if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        cell = loads(load_notes(path)["cell"])
        recipe = Recipe(
            data=Data(**cell["data"]),
            model=Model(**cell["model"]),
            training=Training(**cell["training"]),
            activations=(cell["activation"].partition(": ")[0],),
            seeds=(cell["seed"],),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is no checkpoint of qact train: {error!r}") from error
    entry = rival(recipe.activations[0])
    if entry.describe() != cell["activation"]:
        raise RecipeError(
            f"{path} was trained with {cell['activation']}, which is now {entry.describe()}"
        )
    inputs = load_inputs(recipe.data)
    with torch.random.fork_rng(devices=[]):
        model = build(recipe, entry, recipe.seeds[0], inputs)
    restore(path, cell, {"model": model}, data=inputs.print_of("train", "val"))
    return model.to(device).eval(), recipe, inputs.to(device)


def evaluate_network(
    path: Path, shift: Shift, device: str = "cpu", *, fit: bool = False
) -> Results:
    """Measure the network of a checkpoint under distribution shift, as the bench does.

    With ``fit``, batches are no larger than the test set.
    """
    model, recipe, inputs = opened(path, device)
    shift = shift.fitted(inputs.first(shift.images).sizes()["test"]) if fit else shift
    recipe = replace(recipe, shift=shift)
    checked_inputs(recipe)
    (name, loss, seed), entry = recipe.cells()[0], rival(recipe.activations[0])
    described = {"module": entry.describe(), "paper": entry.paper, "control": entry.control}
    results = Results(recipe, {name: described}, {"images": inputs.sizes()})
    keys = wanted(recipe, name, loss, seed)
    with _one_seed():
        rows = list(evaluate(model, inputs, keys, recipe, lambda images: None))
        notes = {
            "history": [],
            "train_seconds": 0.0,
            "single_sample_gap": single_sample_gap(model, inputs),
            "parameters": sum(p.numel() for p in model.parameters()),
            "costs": costs(model, inputs, recipe.training, shift.adaptations),
        }
    results.add(rows, f"{network(name, loss)}/{seed}", notes)
    return results


@contextmanager
def _one_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


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
    """Make the network, and every method for it untrained: they refuse sizes, options, layers."""
    kinds = [kind for kind in map(parse_adaptation, names) if kind.context is None]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        build(recipe, rival("relu"), 0, inputs)  # sizes that do not fit are refused here
        if not kinds:
            return
        model = build(recipe, rival(recipe.activations[0]), 0, inputs)
        model(inputs.train[0][:_FEW])  # statistics
    for kind in kinds:
        create(kind, model.eval(), inputs, source=_FEW)
