"""DELTA: batch renormalisation at test time, and weights against dominant classes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.entropy import entropy
from qact.adapt.gradient import Gradient
from qact.adapt.registry import register
from qact.nn.layer import QAct
from qact.rank.layout import unfold
from qact.rank.moments import Moments, moments
from qact.statistics.batchnorm import folded
from qact.statistics.lend import lend


class Renormalised:
    """Test-time batch renormalisation: ``(z - m_b)/s_b * r + d`` (equation 2).

    ``r = s_b / s`` and ``d = (m_b - m) / s`` are constants, ``m`` and ``s`` running means over the
    test batches. So the values are those of the running means, the gradient that of the batch.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.running: dict[nn.Module, Moments] = {}  # mean and standard deviation

    def __call__(self, norm: Any, input: Tensor) -> Tensor:
        """The input, renormalised; the running means move."""
        z = folded(norm, input)
        mean, variance = moments(z)
        std = (variance + norm.eps).sqrt()
        now = mean.detach(), std.detach()
        old = self._known(self.running.get(norm, now), now)
        r, d = now[1] / old[1], (now[0] - old[0]) / old[1]
        # So far away that no number says how far: there the running means begin anew.
        far = ~(r.isfinite() & d.isfinite())
        r, d = torch.where(far, 1.0, r), torch.where(far, 0.0, d)
        moved = [
            torch.where(far, b, self.keep * a + (1 - self.keep) * b)
            for a, b in zip(old, now, strict=True)
        ]
        self.running[norm] = self._known((moved[0], moved[1]), old)
        z = (z - mean[:, None]) / std[:, None] * r[:, None] + d[:, None]
        return unfold(z.to(input.dtype), input, getattr(norm, "dim", 1))

    @staticmethod
    def _known(pair: Moments, instead: Moments) -> Moments:
        """Mean and deviation where both are finite: of a batch that overflowed in one, neither."""
        fine = pair[0].isfinite() & pair[1].isfinite()
        return torch.where(fine, pair[0], instead[0]), torch.where(fine, pair[1], instead[1])


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
        self.rule = Renormalised(self.keep_statistics)

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict, then take a step; the first batch begins the running means and contexts."""
        if self.shares is None:
            for module in self.model.modules():
                if isinstance(module, QAct):
                    module.context.decay(0.0)
        return super().forward_and_adapt(x)

    def statistics(self) -> AbstractContextManager:
        """Running over the test batches."""
        return lend(self.model, "running", rule=self.rule, rate=1 - self.keep_statistics)

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
