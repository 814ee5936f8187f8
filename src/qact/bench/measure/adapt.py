"""What a trained network may learn from the unlabelled test images: nothing, or a batch of them.

Three kinds, the same for every activation, because :func:`qact.adapting` switches the contexts of
QAct layers and the statistics of BatchNorm layers alike:

- ``frozen``: everything stored at training time. Each prediction depends on its own image alone, so
  this *is* the single-sample mode.
- ``batch-N``: contexts and BatchNorm statistics of the test batch of ``N`` images.
- ``mixed-N``: stored contexts and those of the test batch together.

A fourth, ``recalibrated-N``, leaves all of these frozen and maps what the norms put out onto
training images by rank (:func:`qact.recalibrated`, ``"mixed"``).

None of them remembers a batch. The methods of :mod:`qact.adapt`, ``METHOD-N``, go through a stream
in its order; see :mod:`qact.bench.measure.method`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

import qact
from qact.bench.errors import RecipeError
from qact.bench.recipe.adaptations import Adaptation, parse_adaptation
from qact.surgery import evaluating

_RECORDED = 200  # training images per batch while source contexts are recorded
_CHUNK = 50  # images per forward pass where batches have no meaning; small ones stay in cache

Run = Callable[[Callable[[], Tensor]], Tensor]


def _plainly(work: Callable[[], Tensor]) -> Tensor:
    return work()


@torch.inference_mode()
def predict(
    model: nn.Module, images: Tensor, adaptation: str, order: Tensor, run: Run = _plainly
) -> Tensor:
    """Return logits ``(N, C)`` for normalised images ``(N, channels, H, W)``.

    Args:
        model: a trained network; its mode and stored statistics are the same afterwards.
        images: the whole test set of one condition.
        adaptation: ``frozen``, ``batch-N``, ``mixed-N`` or ``recalibrated-N``.
        order: a permutation ``(N,)`` that deals the images into batches. The last batch is filled
            up with images of the first, so that every prediction is made in a full batch; a filling
            image is predicted once, with the batch it was dealt into.
        run: calls what predicts one batch; a clock, say.

    Raises:
        RecipeError: the batch is larger than the test set, or the adaptation is a method of
            :mod:`qact.adapt`.
        RuntimeError: ``recalibrated-N``, and :func:`qact.record` was not called before.
    """
    kind = parse_adaptation(adaptation)
    size = kind.batch or _CHUNK
    if kind.context is None:
        raise RecipeError(f"{adaptation} goes through a stream; see qact.bench.measure.method")
    if kind.batch is not None and size > len(images):
        raise RecipeError(f"{adaptation} needs at least {size} test images, got {len(images)}")
    with evaluating(model), adapted(model, kind):
        return _in_batches(model, images, order, size, kind.batch is not None, run)


def adapted(model: nn.Module, kind: Adaptation) -> AbstractContextManager[nn.Module]:
    """Return the block in which ``model`` is adapted in that way."""
    if kind.context == "recalibrated":
        return qact.recalibrated(model, context="mixed")
    return qact.adapting(model, context=str(kind.context))


def recorded(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of a network with the contexts of training images recorded."""
    own = copy.deepcopy(model)
    qact.record(own, images.split(_RECORDED))
    return own


def _in_batches(
    model: nn.Module, images: Tensor, order: Tensor, size: int, fill: bool, run: Run
) -> Tensor:
    extra = order[: -len(order) % size] if fill else order[:0]
    parts = torch.cat([order, extra]).split(size)
    logits = torch.cat([run(lambda part=part: model(images[part])) for part in parts])  # type: ignore[misc]
    logits = logits[: len(order)]
    return torch.empty_like(logits).index_copy_(0, order.to(logits.device), logits)
