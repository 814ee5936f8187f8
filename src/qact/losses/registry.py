"""Losses by name, each with its paper and what it is taken of."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qact import registry

Function = TypeVar("Function", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Entry(registry.Entry):
    """What the registry knows of a loss.

    Args:
        name: as in :func:`create`.
        make: what makes the module; all its options have defaults, but for the sizes of a head.
        paper: where it comes from, with the equation.
        of: what the module takes: ``"logits"`` (N, C) or ``"embeddings"`` (N, D), each with
            targets (N,); ``"head"`` is made of (embedding size, classes), gives logits of
            embeddings, and the loss of embeddings and targets; ``"weights"`` is taken of a
            network's weights; ``"values"`` of what the bench has not, see there.
        soft: whether targets may be weights of the classes, (N, C).
    """

    of: str = "embeddings"
    soft: bool = False


LOSSES = registry.Registry("loss", Entry, room="qact.losses")
register = LOSSES.register
entry = LOSSES.__getitem__
names = LOSSES.names
create = LOSSES.create


class LogitLoss(nn.Module):
    """A function of logits and targets as a module that holds its options.

    Args:
        function: such as :func:`qact.losses.focal_loss`.
        options: of the function. What it refuses is refused here: it is tried on zeros.

    Example:
        >>> from qact.losses import focal_loss
        >>> LogitLoss(focal_loss, gamma=3.0)
        LogitLoss(focal_loss, gamma=3.0)
        >>> LogitLoss(focal_loss, gamma=3.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.0866)
    """

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self.function, self.options = function, options
        weight = options.get("weight")
        if isinstance(weight, Tensor):  # which goes with the module to its device
            self.register_buffer("weight", weight, persistent=False)
        inspect.signature(function).bind(None, None, **options)
        classes = 2 if weight is None else len(weight)
        with torch.random.fork_rng(devices=[]):
            function(torch.zeros(1, classes), torch.zeros(1, dtype=torch.int64), **options)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        held = {"weight": self.weight} if "weight" in self._buffers else {}
        return self.function(logits, target, **{**self.options, **held})

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        return ", ".join([self.function.__name__, *options])


def logit_loss(name: str, *, paper: str, soft: bool = False) -> Callable[[Function], Function]:
    """Return a decorator that enters a function of (logits, target) as ``name``."""

    def enter(function: Function) -> Function:
        def make(**options: Any) -> LogitLoss:
            return LogitLoss(function, **options)

        LOSSES.add(name, make, paper=paper, of="logits", soft=soft)
        return function

    return enter
