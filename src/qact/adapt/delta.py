"""DELTA: batch renormalisation at test time, and weights against dominant classes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qact import checks
from qact.adapt.entropy import entropy
from qact.adapt.following import following
from qact.adapt.gradient import Gradient
from qact.adapt.registry import register
from qact.adapt.statistics import folded, lending
from qact.nn.layer import QAct
from qact.rank.layout import unfold


class Renormalised:
    """Test-time batch renormalisation: ``(z - m_b)/s_b * r + d`` (equation 2).

    ``r = s_b / s`` and ``d = (m_b - m) / s`` are constants, ``m`` and ``s`` running means over the
    test batches. So the values are those of the running means, the gradient that of the batch.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.mean: Tensor | None = None
        self.std: Tensor | None = None

    def __call__(self, module: Any, input: Tensor) -> Tensor:
        """The input, renormalised; the running means move."""
        z = folded(module, input)
        variance, mean = torch.var_mean(z, (0, 2), correction=0)
        std = (variance + module.eps).sqrt()
        now_mean, now_std = mean.detach(), std.detach()
        old_mean = now_mean if self.mean is None else self.mean
        old_std = now_std if self.std is None else self.std
        r, d = now_std / old_std, (now_mean - old_mean) / old_std
        self.mean = self._moved(old_mean, now_mean)
        self.std = self._moved(old_std, now_std)
        z = (z - mean[:, None]) / std[:, None] * r[:, None] + d[:, None]
        return unfold(z.to(input.dtype), input, getattr(module, "dim", 1))

    def _moved(self, old: Tensor, now: Tensor) -> Tensor:
        """The running mean; a value that overflowed does not enter it."""
        mixed = self.keep * old + (1 - self.keep) * now
        return torch.where(mixed.isfinite(), mixed, torch.where(now.isfinite(), now, old))


@register(
    "delta", paper="Zhao et al. 2023, arXiv 2301.13018, equations 2 to 4", learns="parameters"
)
class DELTA(Gradient):
    """Weighted entropy under running test statistics, rare predictions weighing more.

    Samples of an entropy below ``ln C / 2`` weigh ``exp(ln C / 2 - entropy)`` times the inverse of
    the running share of their predicted class, scaled to a mean of 1 over the batch. QAct layers
    rank in a context that starts as the first test batch and moves like the statistics. Defaults
    are the paper's: both running means keep 0.95; Adam, 0.001.

    Args:
        keep_statistics: of the running statistics, per batch.
        keep_shares: of the running class shares, per batch.
        **options: of :class:`qact.adapt.gradient.Gradient`; ``context`` has no effect.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        keep_statistics: float = 0.95,
        keep_shares: float = 0.95,
        **options: object,
    ) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        share = "a share in (0, 1]"
        self.keep_statistics = checks.number("keep_statistics", keep_statistics, share, 0, 1)
        self.keep_shares = checks.number("keep_shares", keep_shares, share, 0, 1)

    def begin(self) -> None:
        """No batch has been seen: no running means, uniform shares."""
        super().begin()
        self.shares: Tensor | None = None
        self.rules: dict[_BatchNorm, Renormalised] = {}

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict, then take a step; the first batch begins the running means and contexts."""
        if self.shares is None:
            for module in self.model.modules():
                if isinstance(module, QAct):
                    module.context.decay(0.0)
                elif isinstance(module, _BatchNorm):
                    self.rules[module] = Renormalised(self.keep_statistics)
        return super().forward_and_adapt(x)

    def statistics(self) -> AbstractContextManager:
        """Running over the test batches."""
        stack = ExitStack()
        stack.enter_context(following(self.model, 1 - self.keep_statistics))
        for module, rule in self.rules.items():
            stack.enter_context(lending(module, rule))
        return stack

    def loss(self, logits: Tensor, x: Tensor) -> Tensor | None:
        """Entropy of the sure samples, weighted against dominant classes."""
        losses, bound = entropy(logits), math.log(logits.shape[1]) / 2
        p = logits.detach().softmax(1)
        shares = torch.full_like(p[0], 1 / p.shape[1]) if self.shares is None else self.shares
        rare = 1 / shares[p.argmax(1)].clamp_min(torch.finfo(p.dtype).eps)
        weights = (bound - losses.detach()).exp() * rare / rare.mean()
        self.shares = self.keep_shares * shares + (1 - self.keep_shares) * p.mean(0)
        sure = losses.detach() < bound
        return (weights * losses)[sure].mean() if bool(sure.any()) else None
