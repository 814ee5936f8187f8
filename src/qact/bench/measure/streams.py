"""The batches of one row: in which order test images arrive, and under which condition each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qact.bench.data import Inputs, permutation
from qact.bench.recipe.shift import ALL
from qact.datasets import streams


class Passage(NamedTuple):
    """What one row runs through."""

    stream: str
    corruptions: tuple[str, ...]
    severity: int
    order: int  # seed of the plan
    noise: int  # seed of the corruptions


def arrival(stream: str, labels: Tensor, seed: int) -> Tensor:
    """Return the order in which the test images of one condition arrive, for dealing into batches.

    ``"iid"`` is a random one; the others are those of :mod:`qact.datasets.streams`.

    Example:
        >>> labels = torch.tensor([1, 0, 1, 0])
        >>> labels[arrival("sorted", labels, 0)].tolist()
        [0, 0, 1, 1]
    """
    if stream == "iid":
        return permutation(len(labels), seed)
    blank = torch.zeros(len(labels), 1, 1, 1)  # a stream plans by labels; the images are ours
    plan = streams.stream(stream, blank, labels, corruptions=["contrast"], severity=0, seed=seed)
    return torch.cat([step.index for step in plan.steps])


def plan(inputs: Inputs, passage: Passage, batch: int) -> list[streams.Step]:
    """Return the steps of a stream of the test images.

    Those of ``"iid"`` are dealt as for the bench's own adaptations, so that rows can be paired.
    """
    # At severity 0 any corruption leaves the images alone.
    names = passage.corruptions if passage.severity else ("contrast",)
    labels = inputs.test_labels.cpu()
    if passage.stream == "iid":
        parts = arrival("iid", labels, passage.order).split(batch)
        return [streams.Step(part, ((names[0], passage.severity),), names[0]) for part in parts]
    return streams.stream(
        passage.stream,
        inputs.test_images,
        labels,
        batch=batch,
        corruptions=names,
        severity=passage.severity,
        seed=passage.order,
    ).steps


def batches(
    inputs: Inputs, steps: list[streams.Step], noise: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised images and labels on the CPU, -1 for garbage."""
    labels = inputs.test_labels.cpu()
    for step in steps:
        y = labels[step.index]
        if step.garbage is None:
            yield inputs.under(step.conditions, step.index, noise), y
        else:
            clean = inputs.test_images[step.index]
            yield inputs.normalised(streams.spoilt(clean, step.garbage)), torch.full_like(y, -1)


def passed(stream: str, corruption: str, count: int, images: int) -> int:
    """Return about how many images a row sends through the network.

    Example:
        >>> passed("iid", "fog", 1, 100), passed("recurring", "all", 4, 100)
        (100, 1200)
    """
    if corruption != ALL:
        return images
    return images * count * (streams.ROUNDS if stream == "recurring" else 1)
