"""Trained networks to rows.

One row is one (activation, loss, adaptation, stream, corruption, severity, seed, images) with its
metrics, its time per batch and the memory that is kept from batch to batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from qact import adapt
from qact.bench.data import Inputs
from qact.bench.measure.adapt import predict, recorded
from qact.bench.measure.clock import Clock
from qact.bench.measure.held import held
from qact.bench.measure.method import create, walk
from qact.bench.measure.metrics import Row, measure
from qact.bench.measure.streams import Passage, arrival, passed
from qact.bench.recipe.adaptations import Adaptation, parse_adaptation
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.rows import KEY, Key, mixture
from qact.bench.recipe.shift import ALL

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
        subject = _subject(kind, dealt, model, inputs)
        for key in mine:
            named, over = dict(zip(KEY, key, strict=True)), mixture(recipe, key)
            part = inputs.first(named["images"])
            if isinstance(subject, adapt.Method):
                row = _walked(subject, part, named, over, recipe.shift.seed)
            else:
                row = _dealt(subject, part, named, recipe.shift.seed)
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


def _subject(kind: Adaptation, dealt: bool, model: nn.Module, inputs: Inputs) -> nn.Module:
    """Return what predicts: the network, with source contexts if they are needed, or a method."""
    if dealt:
        recalibrated = kind.context == "recalibrated"
        return recorded(model, inputs.train[0]) if recalibrated else model
    method = create(kind, model, inputs)
    method(inputs.val[0][:_FEW])  # compiles, so that the first row does not pay for it
    return method


def _dealt(model: nn.Module, inputs: Inputs, named: dict[str, Any], noise: int) -> Row:
    """Measure an adaptation of the bench's own on the whole test set of one condition."""
    images = inputs.shifted(named["corruption"], named["severity"], noise)
    order = arrival(named["stream"], inputs.test_labels.cpu(), named["seed"])
    clock = Clock(images.device)
    logits = predict(model, images, named["adaptation"], order, clock)
    return measure(logits.cpu(), inputs.test_labels.cpu()) | _costs(clock, model)


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


@torch.inference_mode()
def single_sample_gap(model: nn.Module, inputs: Inputs, count: int = 32) -> float:
    """Return how far logits of images predicted one by one are from those of the frozen batch.

    It says that ``frozen`` rows are what single samples get; rounding alone should remain. In
    float64, since a step rank turns the rounding of float32 into a step.
    """
    model = deepcopy(model).double()
    images = inputs.shifted("none", 0, 0)[:count].double()
    together = predict(model, images, "frozen", torch.arange(len(images)))
    alone = [predict(model, image[None], "frozen", torch.arange(1)) for image in images]
    return (together - torch.cat(alone)).abs().max().item()
