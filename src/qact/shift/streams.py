"""Test streams: in which order, in what company and in what condition test images arrive.

A stream is planned once, from a seed, as a list of batches of indices; images are corrupted when a
batch is asked for, each by its own random numbers. So iterating twice gives the same bits, and
nothing but one batch is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qact import checks
from qact.shift.registry import check_images, corrupt, corruptions

Transform = Callable[[Tensor], Tensor]
Condition = tuple[str, int]  # corruption, severity

GARBAGE = ("black", "nan", "repeated")
DIRICHLET, IMBALANCE, ROUNDS = 0.1, 10.0, 3


class Batch(NamedTuple):
    """Images (n, C, H, W), labels (n,) with -1 where there is none, and the condition's name."""

    x: Tensor
    y: Tensor
    condition: str


@dataclass(frozen=True)
class Step:
    """One batch of a plan: which images, under which condition each, and as what garbage if any."""

    index: Tensor
    conditions: tuple[Condition, ...]  # one, or one per image
    name: str
    garbage: str | None = None


class Plan(NamedTuple):
    """What a stream is planned from."""

    labels: Tensor
    conditions: list[Condition]
    batch: int
    draw: torch.Generator


class Stream:
    """Batches of a plan, the same ones at every iteration.

    Made by :func:`stream`. ``fresh`` says that every condition is a start of its own: an
    evaluation resets its method when ``condition`` changes.
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        steps: list[Step],
        *,
        seed: int,
        transform: Transform | None,
        fresh: bool,
    ) -> None:
        self.name, self.steps, self.seed, self.fresh = name, steps, seed, fresh
        self._images, self._labels, self._transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Batch]:
        return (self._batch(step) for step in self.steps)

    def _batch(self, step: Step) -> Batch:
        x = self._shifted(self._images[step.index], step)
        y = self._labels[step.index]
        if step.garbage is not None:
            x, y = spoilt(x, step.garbage), torch.full_like(y, -1)
        return Batch(x if self._transform is None else self._transform(x), y, step.name)

    def _shifted(self, x: Tensor, step: Step) -> Tensor:
        if len(set(step.conditions)) == 1:
            name, severity = step.conditions[0]
            return corrupt(x, name, severity, seed=self.seed, index=step.index)
        out = torch.empty_like(x)
        for name, severity in sorted(set(step.conditions)):
            mine = torch.tensor([c == (name, severity) for c in step.conditions])
            out[mine] = corrupt(x[mine], name, severity, seed=self.seed, index=step.index[mine])
        return out


def spoilt(x: Tensor, kind: str) -> Tensor:
    """A batch of garbage of the shape of ``x``: all black, NaN, or its first image throughout."""
    checks.choice("kind", kind, GARBAGE)
    if kind == "repeated":
        return x[:1].expand_as(x).clone()
    return torch.full_like(x, 0.0 if kind == "black" else torch.nan)


def stream(
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    batch: int = 64,
    corruptions: Sequence[str] = corruptions(),
    severity: int = 5,
    seed: int = 0,
    transform: Transform | None = None,
) -> Stream:
    """Plan a stream; iterate it for ``(x, y, condition)``.

    - ``iid``: one corruption after the other, images in random order.
    - ``sorted``: the same, sorted by label.
    - ``dirichlet``: labels correlated in time, as in NOTE (arXiv 2208.05117): each class is spread
      over as many slots as there are classes by shares drawn from Dirichlet(0.1).
    - ``imbalanced``: a long tail, the most frequent class ten times the rarest.
    - ``garbage``: i.i.d. batches with bursts between them: black, NaN, one frame repeated.
    - ``mixed``: all pairs of image and corruption in random order, so a batch holds many kinds.
    - ``continual``: the corruptions one after the other, without a new start.
    - ``recurring``: the same, three times round.
    - ``gradual``: within each corruption the severity rises from 1 to 5.

    Args:
        name: see above.
        images: floating (N, C, H, W) in [0, 1].
        labels: (N,) integer.
        batch: images per batch, from 1 on; the last of a condition may be smaller.
        corruptions: names of :func:`qact.shift.corruptions`, in their order.
        severity: 0 to 5, where it does not rise by itself.
        seed: of order, choice and corruptions.
        transform: applied to every batch last, such as a normalisation.

    Raises:
        ValueError: unknown name, sizes that do not fit, no corruption, or a severity out of range.
        TypeError: images or labels of another dtype.

    Example:
        >>> images, labels = torch.rand(8, 1, 16, 16), torch.arange(8) % 2
        >>> for x, y, condition in stream("sorted", images, labels, batch=4, corruptions=["fog"]):
        ...     print(tuple(x.shape), y.tolist(), condition)
        (4, 1, 16, 16) [0, 0, 0, 0] fog-5
        (4, 1, 16, 16) [1, 1, 1, 1] fog-5
    """
    if name not in PLANS:
        raise ValueError(f"unknown stream {name!r}; known: {', '.join(PLANS)}")
    check_images(images)
    _check_labels(labels, len(images))
    if isinstance(corruptions, str) or not corruptions:
        raise ValueError(f"corruptions={corruptions!r} must name at least one corruption in a list")
    for one in corruptions:
        corrupt(images[:0], one, severity)  # refuses what it does not know
    draw = torch.Generator().manual_seed(checks.integer("seed", seed))
    conditions = [(one, int(severity)) for one in corruptions]
    plan = Plan(labels, conditions, checks.integer("batch", batch, 1), draw)
    make, fresh = PLANS[name]
    return Stream(name, images, labels, make(plan), seed=seed, transform=transform, fresh=fresh)


def _check_labels(labels: Tensor, count: int) -> None:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an integer tensor, got {got}")
    if labels.shape != (count,) or count == 0:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected ({count},), N >= 1")


def names() -> list[str]:
    """The streams that :func:`stream` knows.

    >>> names()[:3]
    ['iid', 'sorted', 'dirichlet']
    """
    return list(PLANS)


def _shuffled(plan: Plan) -> Tensor:
    return torch.randperm(len(plan.labels), generator=plan.draw)


def _cut(order: Tensor, condition: Condition, batch: int) -> list[Step]:
    name = f"{condition[0]}-{condition[1]}"
    return [Step(part, (condition,), name) for part in order.split(batch)]


def _each(order: Callable[[Plan], Tensor]) -> Callable[[Plan], list[Step]]:
    """All images in an order drawn anew for each condition."""
    return lambda plan: [s for c in plan.conditions for s in _cut(order(plan), c, plan.batch)]


def _sorted(plan: Plan) -> Tensor:
    order = _shuffled(plan)
    return order[plan.labels[order].argsort(stable=True)]


def _dirichlet(plan: Plan) -> Tensor:
    order, classes = _shuffled(plan), plan.labels.unique()
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


def _imbalanced(plan: Plan) -> Tensor:
    order, classes = _shuffled(plan), plan.labels.unique()
    ranks = torch.randperm(len(classes), generator=plan.draw)
    keep = torch.zeros(len(order), dtype=torch.bool)
    for rank, label in zip(ranks.tolist(), classes, strict=True):
        places = (plan.labels[order] == label).nonzero()[:, 0]
        share = IMBALANCE ** (-rank / max(1, len(classes) - 1))
        keep[places[: max(1, round(share * len(places)))]] = True
    return order[keep]


def _garbage(plan: Plan) -> list[Step]:
    steps: list[Step] = []
    for condition in plan.conditions:
        clean = _cut(_shuffled(plan), condition, plan.batch)
        every = max(1, len(clean) // (len(GARBAGE) + 1))
        bursts = iter(GARBAGE)
        for count, step in enumerate(clean, 1):
            steps.append(step)
            if count % every == 0 and (kind := next(bursts, None)):
                steps.append(Step(step.index, step.conditions, step.name, kind))
    return steps


def _mixed(plan: Plan) -> list[Step]:
    count, kinds = len(plan.labels), len(plan.conditions)
    steps = []
    for part in torch.randperm(count * kinds, generator=plan.draw).split(plan.batch):
        mine = tuple(plan.conditions[i] for i in (part // count).tolist())
        steps.append(Step(part % count, mine, "mixed"))
    return steps


def _recurring(plan: Plan) -> list[Step]:
    return [step for _ in range(ROUNDS) for step in _each(_shuffled)(plan)]


def _gradual(plan: Plan) -> list[Step]:
    steps: list[Step] = []
    for name, _ in plan.conditions:
        for severity, part in enumerate(_shuffled(plan).tensor_split(5), 1):
            steps += _cut(part, (name, severity), plan.batch) if len(part) else []
    return steps


# How it is planned, and whether every condition is a start of its own.
PLANS: dict[str, tuple[Callable[[Plan], list[Step]], bool]] = {
    "iid": (_each(_shuffled), True),
    "sorted": (_each(_sorted), True),
    "dirichlet": (_each(_dirichlet), True),
    "imbalanced": (_each(_imbalanced), True),
    "garbage": (_garbage, True),
    "mixed": (_mixed, False),
    "continual": (_each(_shuffled), False),
    "recurring": (_recurring, False),
    "gradual": (_gradual, False),
}
