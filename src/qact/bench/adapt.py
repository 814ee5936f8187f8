"""What a trained network may learn from the unlabelled test images: nothing, or a batch of them.

Three kinds, the same for every activation, because :func:`qact.adapting` switches the contexts of
QAct layers and the statistics of BatchNorm layers alike:

- ``frozen``: everything stored at training time. Each prediction depends on its own image alone, so
  this *is* the single-sample mode.
- ``batch-N``: contexts and BatchNorm statistics of the test batch, ``N`` images drawn i.i.d.
- ``mixed-N``: stored contexts and those of the test batch together.

A fourth, ``recalibrated-N``, leaves all of these frozen and maps what the norms put out onto
training images by rank (:func:`qact.recalibrated`, ``"mixed"``).
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import qact
from qact.bench.errors import RecipeError

_CHUNK = 50  # images per forward pass where batches have no meaning; small ones stay in cache


@dataclass(frozen=True)
class Adaptation:
    """A parsed adaptation: a context of :func:`qact.adapting` and a batch size (None: any).

    The context ``"recalibrated"`` stands for :func:`qact.recalibrated` instead.
    """

    name: str
    context: str
    batch: int | None


def parse_adaptation(name: str) -> Adaptation:
    """Read ``"frozen"``, ``"batch-N"``, ``"mixed-N"`` or ``"recalibrated-N"``.

    Example:
        >>> parse_adaptation("batch-200").batch
        200
    """
    if name == "frozen":
        return Adaptation(name, "running", None)
    match = re.fullmatch(r"(batch|mixed|recalibrated)-([1-9]\d*)", name)
    if match is None:
        raise RecipeError(
            "adaptation must be 'frozen', 'batch-N', 'mixed-N' or 'recalibrated-N' with N >= 1, "
            f"got {name!r}"
        )
    return Adaptation(name, match[1], int(match[2]))


def heading(adaptation: str) -> str:
    """Return the adaptation as headings say it; frozen is what single samples get."""
    return "frozen = single samples" if adaptation == "frozen" else adaptation


def describe(adaptation: str) -> str:
    """Return one sentence for captions."""
    kind = parse_adaptation(adaptation)
    if kind.batch is None:
        return (
            "statistics stored at training time; every image is predicted on its own, "
            "so single samples get these numbers"
        )
    if kind.context == "recalibrated":
        return (
            f"stored statistics; what the norms put out for {kind.batch} i.i.d. images of one "
            "corruption and severity is mapped by rank onto the same for training images"
        )
    own = f"statistics of the test batch, {kind.batch} i.i.d. images of one corruption and severity"
    return own if kind.context == "batch" else f"{own}, mixed with the stored ones"


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, adaptation: str, order: Tensor) -> Tensor:
    """Return logits ``(N, C)`` for normalised images ``(N, channels, H, W)``.

    Args:
        model: a trained network; its mode and stored statistics are the same afterwards.
        images: the whole test set of one condition.
        adaptation: see :func:`parse_adaptation`.
        order: a permutation ``(N,)`` that deals the images into batches. The last batch is filled
            up with images of the first, so that every prediction is made in a full batch; a filling
            image is predicted once, with the batch it was dealt into.

    Raises:
        RecipeError: the batch is larger than the test set.
        RuntimeError: ``recalibrated-N``, and :func:`qact.record` was not called before.
    """
    kind = parse_adaptation(adaptation)
    size = kind.batch or _CHUNK
    if kind.batch is not None and size > len(images):
        raise RecipeError(f"{adaptation} needs at least {size} test images, got {len(images)}")
    was_training = model.training
    model.eval()
    try:
        with adapted(model, kind):
            logits = _in_batches(model, images, order, size, fill=kind.batch is not None)
    finally:
        model.train(was_training)
    return logits


def adapted(model: nn.Module, kind: Adaptation) -> AbstractContextManager[nn.Module]:
    """Return the block in which ``model`` is adapted in that way."""
    if kind.context == "recalibrated":
        return qact.recalibrated(model, context="mixed")
    return qact.adapting(model, context=kind.context)


def _in_batches(model: nn.Module, images: Tensor, order: Tensor, size: int, fill: bool) -> Tensor:
    extra = order[: -len(order) % size] if fill else order[:0]
    dealt = torch.cat([order, extra])
    logits = torch.cat([model(images[part]) for part in dealt.split(size)])[: len(order)]
    return torch.empty_like(logits).index_copy_(0, order.to(logits.device), logits)
