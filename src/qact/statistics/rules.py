"""Other statistics for a BatchNorm, lent for the length of each forward pass.

A rule is called with the norm and its input, and says what the norm shall use: a pair ``(mean,
variance)`` of (C,), ``(None, None)`` for the batch's own with their gradient, a tensor shaped like
the input that is standardised already, or None for what is stored. The norm's own ``forward`` runs
in every case, so subclasses that do more than normalise keep doing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from qact.rank.layout import fold
from qact.surgery import lent

Rule = Callable[[Any, Tensor], Any]


@contextmanager
def lending(module: _BatchNorm, rule: Rule) -> Iterator[None]:
    """Within the block ``module`` in ``eval()`` follows ``rule``; nests, leaves no trace."""
    with ExitStack() as undo:
        if "_adapting" not in vars(module):
            undo.enter_context(module.register_forward_pre_hook(_lend, with_kwargs=True))
            undo.enter_context(module.register_forward_hook(_return, always_call=True))
        undo.enter_context(lent(module, "_adapting", rule))
        yield


def stored(module: Any, input: Tensor) -> None:
    """The running statistics."""


def from_batch(module: Any, input: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Those of the batch, with the gradient that flows through them.

    A single value per channel has variance zero, and the norm gives its bias.
    """
    if input.numel() > module.num_features:
        return None, None
    return moments(module, input)


@dataclass(frozen=True)
class Mixed:
    """Those of the batch joined to the running ones, which count as ``prior`` samples.

    The union of two sets of values: ``m = s m_b + (1 - s) m_r``,
    ``v = s v_b + (1 - s) v_r + s (1 - s) (m_b - m_r)^2`` with the batch's share
    ``s = n / (n + prior)``. Prior 0 is the batch alone, infinity the running statistics alone.
    """

    prior: float

    def __call__(self, module: Any, input: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of the union."""
        mean, variance = moments(module, input)
        share = len(input) / (len(input) + self.prior)
        old_mean, old_variance = running(module, mean)
        gap = mean - old_mean
        variance = share * variance + (1 - share) * old_variance + share * (1 - share) * gap**2
        return old_mean + share * gap, variance


def moments(module: Any, input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of the input, as constants, in float32 at least."""
    z = folded(module, input.detach())
    variance, mean = torch.var_mean(z, (0, 2), correction=0)
    return mean, variance


def running(module: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Running mean and variance (C,) in the dtype of ``like``."""
    return module.running_mean.to(like.dtype), module.running_var.to(like.dtype)


def folded(module: Any, input: Tensor) -> Tensor:
    """The input as (outer, C, inner), in float32 at least."""
    z = fold(input, getattr(module, "dim", 1))
    return z if z.dtype == torch.float64 else z.float()


def _lend(module: Any, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> Any:
    rule = module._adapting
    if module.training or module.running_mean is None:
        return None
    input = args[0] if args else named["input"]
    lent = rule(module, input)
    if lent is None:
        return None
    old = module.running_mean, module.running_var
    module.__dict__["_lent"] = old
    if isinstance(lent, Tensor):
        # With mean 0 and variance 1 - eps the norm only scales and shifts.
        module.running_mean = torch.zeros_like(old[0])
        module.running_var = torch.full_like(old[1], 1 - module.eps)
        return ((lent, *args[1:]), named) if args else (args, named | {"input": lent})
    module.running_mean, module.running_var = (
        None if new is None else new.to(was.dtype) for new, was in zip(lent, old, strict=True)
    )
    return None


def _return(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
    lent = module.__dict__.pop("_lent", None)
    if lent is not None:
        module.running_mean, module.running_var = lent
