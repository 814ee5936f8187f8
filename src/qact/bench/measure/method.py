"""A method of :mod:`qact.adapt` on its way through a test stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import adapt
from qact.bench.data import Inputs
from qact.bench.errors import RecipeError
from qact.bench.measure.clock import Clock
from qact.bench.measure.streams import Passage, batches, plan
from qact.bench.recipe.adaptations import Adaptation, check_adaptation

SOURCE = 2000  # training images for methods that ask for source samples


def create(
    kind: Adaptation, model: nn.Module, inputs: Inputs, source: int = SOURCE
) -> adapt.Method:
    """Return the method; one that takes ``source`` samples gets training images.

    Raises:
        RecipeError: there is no such method or option, or it does not fit the model.
    """
    check_adaptation(kind.name)
    options = dict(kind.options)
    if "source" in adapt.entry(kind.method).options():
        options.setdefault("source", inputs.train[0][:source])
    try:
        method = adapt.create(kind.method, model, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{kind.name}: {error}") from error
    method.options.pop("source", None)  # it has read them, and need not keep them
    return method


def walk(
    method: adapt.Method, inputs: Inputs, passage: Passage, batch: int, clock: Clock
) -> tuple[Tensor, Tensor]:
    """Send a method through a stream from a fresh start; return logits and labels on the CPU.

    Garbage is passed but not counted. A real image without a finite prediction counts as a uniform
    one.
    """
    method.reset()
    logits, labels = [], []
    for x, y in batches(inputs, plan(inputs, passage, batch), passage.noise):
        found = clock(lambda x=x: method(x)).cpu()  # type: ignore[misc]
        logits.append(found[y >= 0])
        labels.append(y[y >= 0])
    every = torch.cat(logits)
    lost = ~torch.isfinite(every).all(1, keepdim=True)
    return every.masked_fill(lost, 0.0), torch.cat(labels)
