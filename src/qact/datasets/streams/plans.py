"""The streams by name: which conditions follow each other, cut into batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qact.datasets.streams.orders import Plan, dirichlet, imbalanced, shuffled, sorted_by_label
from qact.datasets.streams.stream import GARBAGE, Condition, Step

ROUNDS = 3


def _cut(order: Tensor, condition: Condition, batch: int) -> list[Step]:
    name = f"{condition[0]}-{condition[1]}"
    return [Step(part, (condition,), name) for part in order.split(batch)]


def _each(order: Callable[[Plan], Tensor]) -> Callable[[Plan], list[Step]]:
    """All images in an order drawn anew for each condition."""
    return lambda plan: [s for c in plan.conditions for s in _cut(order(plan), c, plan.batch)]


def _garbage(plan: Plan) -> list[Step]:
    steps: list[Step] = []
    for condition in plan.conditions:
        clean = _cut(shuffled(plan), condition, plan.batch)
        every = max(1, len(clean) // (len(GARBAGE) + 1))
        bursts = list(GARBAGE)
        for count, step in enumerate(clean, 1):
            steps.append(step)
            due = len(bursts) if count == len(clean) else int(count % every == 0)
            for kind in bursts[:due]:
                steps.append(Step(step.index, step.conditions, step.name, kind))
            bursts = bursts[due:]
    return steps


def _mixed(plan: Plan) -> list[Step]:
    count, kinds = len(plan.labels), len(plan.conditions)
    steps = []
    for part in torch.randperm(count * kinds, generator=plan.draw).split(plan.batch):
        mine = tuple(plan.conditions[i] for i in (part // count).tolist())
        steps.append(Step(part % count, mine, "mixed"))
    return steps


def _recurring(plan: Plan) -> list[Step]:
    return [step for _ in range(ROUNDS) for step in _each(shuffled)(plan)]


def _gradual(plan: Plan) -> list[Step]:
    steps: list[Step] = []
    for name, _ in plan.conditions:
        for severity, part in enumerate(shuffled(plan).tensor_split(5), 1):
            steps += _cut(part, (name, severity), plan.batch) if len(part) else []
    return steps


# How it is planned, and whether every condition is a start of its own.
PLANS: dict[str, tuple[Callable[[Plan], list[Step]], bool]] = {
    "iid": (_each(shuffled), True),
    "sorted": (_each(sorted_by_label), True),
    "dirichlet": (_each(dirichlet), True),
    "imbalanced": (_each(imbalanced), True),
    "garbage": (_garbage, True),
    "mixed": (_mixed, False),
    "continual": (_each(shuffled), False),
    "recurring": (_recurring, False),
    "gradual": (_gradual, False),
}
