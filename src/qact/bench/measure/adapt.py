"""What a trained network may learn from the unlabelled test images: nothing, or a batch of them.

Every adaptation is a method of :mod:`qact.adapt`. Four have names of the bench's own, since they
deal the whole test set of one condition into full batches, and remember none of them:

- ``frozen`` (``source``): everything stored at training time. Each prediction depends on its own
  image alone, so this *is* the single-sample mode.
- ``batch-N`` (``batch``): contexts and BatchNorm statistics of the test batch of ``N`` images.
- ``mixed-N`` (``mixed``): stored contexts and those of the test batch together.
- ``recalibrated-N`` (``aqr``): all of these frozen; what the norms put out is mapped onto training
  images by rank (:func:`qact.recalibrated`, ``"mixed"``).

The others, ``METHOD-N``, go through a stream in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qact import adapt
from qact.bench.data import Inputs
from qact.bench.errors import RecipeError
from qact.bench.measure.streams import Passage, batches, plan
from qact.bench.recipe.adaptations import Adaptation, check_adaptation, parse_adaptation

SOURCE = 2000  # training images for methods that ask for source samples
_RECORDED = 200  # training images per batch while source contexts are recorded
_CHUNK = 50  # images per forward pass where batches have no meaning; small ones stay in cache

Run = Callable[[Callable[[], Tensor]], Tensor]  # calls what predicts one batch; a clock, say


def _plainly(work: Callable[[], Tensor]) -> Tensor:
    return work()


def predict(
    model: nn.Module, images: Tensor, adaptation: str, order: Tensor, run: Run = _plainly
) -> Tensor:
    """Return logits ``(N, C)`` for normalised images ``(N, channels, H, W)``.

    Args:
        model: a trained network; its flags and stored statistics are the same afterwards.
        images: the whole test set of one condition.
        adaptation: ``frozen``, ``batch-N``, ``mixed-N`` or ``recalibrated-N``.
        order: see :func:`deal`.
        run: calls what predicts one batch.

    Raises:
        RecipeError: the batch is larger than the test set, or the adaptation is a method of
            :mod:`qact.adapt`.
        RuntimeError: ``recalibrated-N``, and :func:`qact.record` was not called before.
    """
    kind = parse_adaptation(adaptation)
    if kind.context is None:
        raise RecipeError(f"{adaptation} goes through a stream; see qact.bench.measure.adapt.walk")
    with dealing(kind, model, inplace=True) as method:
        return deal(method, images, kind, order, run)


def dealing(
    kind: Adaptation,
    model: nn.Module,
    source: Tensor | None = None,
    *,
    inplace: bool = False,
) -> adapt.Method:
    """Return the method behind a name of the bench's own.

    Args:
        kind: the adaptation.
        model: a trained network.
        source: training images, which ``recalibrated-N`` records.
        inplace: adapt ``model`` itself, not a copy.
    """
    options: dict[str, Any] = {**kind.options, "inplace": inplace}
    if kind.context == "recalibrated" and source is not None:
        options["source"] = source.split(_RECORDED)
    try:
        return adapt.create(kind.method, model, **options)
    except ValueError:
        if kind.context not in ("batch", "mixed"):
            raise
        return adapt.create("source", model, inplace=inplace)  # no norms: a batch says nothing


def deal(
    method: adapt.Method, images: Tensor, kind: Adaptation, order: Tensor, run: Run = _plainly
) -> Tensor:
    """Return logits of a whole test set, dealt into full batches.

    Args:
        method: predicts a batch.
        images: ``(N, channels, H, W)``.
        kind: says how large a batch is.
        order: a permutation ``(N,)`` that deals the images into batches. The last batch is filled
            up with images of the first, so that every prediction is made in a full batch; a filling
            image is predicted once, with the batch it was dealt into.
        run: calls what predicts one batch.

    Raises:
        RecipeError: the batch is larger than the test set.
    """
    size = kind.batch or _CHUNK
    if kind.batch is not None and size > len(images):
        raise RecipeError(f"{kind.name} needs at least {size} test images, got {len(images)}")
    extra = order[: -len(order) % size] if kind.batch is not None else order[:0]
    parts = torch.cat([order, extra]).split(size)
    logits = torch.cat([run(lambda part=part: method(images[part])) for part in parts])  # type: ignore[misc]
    logits = logits[: len(order)]
    return torch.empty_like(logits).index_copy_(0, order.to(logits.device), logits)


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
    method: adapt.Method, inputs: Inputs, passage: Passage, batch: int, clock: Run
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
