"""In which order, and in what company, images arrive under one condition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qact.datasets.streams.stream import Condition

DIRICHLET, IMBALANCE = 0.1, 10.0


class Plan(NamedTuple):
    """What a stream is planned from."""

    labels: Tensor
    conditions: list[Condition]
    batch: int
    draw: torch.Generator


def shuffled(plan: Plan) -> Tensor:
    """A random order."""
    return torch.randperm(len(plan.labels), generator=plan.draw)


def sorted_by_label(plan: Plan) -> Tensor:
    """A random order within each label, one label after the other."""
    order = shuffled(plan)
    return order[plan.labels[order].argsort(stable=True)]


def dirichlet(plan: Plan) -> Tensor:
    """Labels correlated in time: each is spread over the slots by shares from Dirichlet(0.1)."""
    order, classes = shuffled(plan), plan.labels.unique()
    slots: list[list[Tensor]] = [[] for _ in classes]
    for label in classes:
        mine = order[plan.labels[order] == label]
        ends = (_shares(len(classes), plan.draw).cumsum(0) * len(mine)).round().long()
        sizes = torch.diff(ends.clamp_max(len(mine)), prepend=ends.new_zeros(1))
        sizes[-1] += len(mine) - sizes.sum()
        for slot, part in zip(slots, mine.split(sizes.tolist()), strict=True):
            slot.append(part)
    joined = [torch.cat(slot) for slot in slots]
    return torch.cat([s[torch.randperm(len(s), generator=plan.draw)] for s in joined])


def _shares(count: int, draw: torch.Generator) -> Tensor:
    """One draw from Dirichlet(0.1); torch's gamma takes no generator, numpy's old one is frozen."""
    seed = int(torch.randint(2**31 - 1, (1,), generator=draw))
    return torch.from_numpy(np.random.RandomState(seed).dirichlet([DIRICHLET] * count))


def imbalanced(plan: Plan) -> Tensor:
    """A random order of fewer images: shares of the labels fall geometrically from 1 to 1/10."""
    order, classes = shuffled(plan), plan.labels.unique()
    ranks = torch.randperm(len(classes), generator=plan.draw)
    keep = torch.zeros(len(order), dtype=torch.bool)
    for rank, label in zip(ranks.tolist(), classes, strict=True):
        places = (plan.labels[order] == label).nonzero()[:, 0]
        share = IMBALANCE ** (-rank / max(1, len(classes) - 1))
        keep[places[: max(1, round(share * len(places)))]] = True
    return order[keep]
