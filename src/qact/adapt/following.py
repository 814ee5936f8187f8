"""Stored statistics that move with the stream: mean and variance, or a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qact.adapt.contexts import adapting
from qact.adapt.statistics import Rule, folded, lending, running
from qact.kernels import eager
from qact.nn.layer import QAct
from qact.rank.layout import fold, unfold


@contextmanager
def following(model: nn.Module, rate: float, rule: Rule | None = None) -> Iterator[None]:
    """Within the block every batch moves what is stored by ``rate``, and is measured by it then.

    Args:
        model: in ``eval()``.
        rate: share of the batch in ``(1 - rate) stored + rate batch``.
        rule: for the BatchNorms, instead of :class:`Moving` by ``rate``.
    """
    with ExitStack() as stack:
        stack.enter_context(adapting(model, "running"))
        for module in model.modules():
            if isinstance(module, QAct):
                handle = module.register_forward_pre_hook(_follower(rate))
                stack.callback(handle.remove)
        stack.enter_context(normalising(model, rule or Moving(rate)))
        yield


@contextmanager
def normalising(model: nn.Module, rule: Rule) -> Iterator[None]:
    """Within the block every BatchNorm follows ``rule``."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                stack.enter_context(lending(module, rule))
        yield


@dataclass(frozen=True)
class Moving:
    """``m <- (1 - rate) m + rate m_b``, with the gradient of the batch's part (arXiv 2303.13899).

    The robust BatchNorm of RoTTA, equation 5: the moved statistics normalise, and are kept.
    """

    rate: float

    def __call__(self, module: Any, input: Tensor) -> Tensor:
        """The input, standardised by the moved statistics."""
        z = folded(module, input)
        variance, mean = torch.var_mean(z, (0, 2), correction=0)
        old_mean, old_variance = running(module, mean)
        mean = (1 - self.rate) * old_mean + self.rate * mean
        variance = (1 - self.rate) * old_variance + self.rate * variance
        keep(module, mean, variance)
        return standardised(module, input, mean[:, None], variance[:, None])


@torch.no_grad()
def keep(module: Any, mean: Tensor, variance: Tensor) -> None:
    """Store running statistics, where they are finite."""
    sound = torch.isfinite(mean) & torch.isfinite(variance)
    for buffer, new in ((module.running_mean, mean), (module.running_var, variance)):
        buffer.copy_(torch.where(sound, new.to(buffer.dtype), buffer))


def standardised(module: Any, input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """``(z - mean) / sqrt(variance + eps)``, statistics broadcast against (N, C, L)."""
    z = (folded(module, input) - mean) * (variance + module.eps).rsqrt()
    return unfold(z.to(input.dtype), input, getattr(module, "dim", 1))


def _follower(rate: float) -> Callable[[Any, tuple[Tensor, ...]], None]:
    def follow(module: Any, args: tuple[Tensor, ...]) -> None:
        z = fold(args[0].detach(), module.dim)
        with torch.no_grad():
            module.context.follow(eager.observe(z, module.rule), rate)

    return follow
