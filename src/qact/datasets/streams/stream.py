"""A stream: batches of a plan, corrupted when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qact import checks
from qact.corruptions.apply import corrupt

Transform = Callable[[Tensor], Tensor]
Condition = tuple[str, int]  # corruption, severity

GARBAGE = ("black", "nan", "repeated")


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
    """Return garbage of the shape of ``x``: all black, NaN, or its first image throughout."""
    checks.choice("kind", kind, GARBAGE)
    if kind == "repeated":
        return x[:1].expand_as(x).clone()
    return torch.full_like(x, 0.0 if kind == "black" else torch.nan)
