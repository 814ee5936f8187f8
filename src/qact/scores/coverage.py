"""Neuron activation coverage: is each feature in a state that in-distribution data have too?"""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.context import Context
from qact.scores.outputs import Outputs
from qact.scores.registry import register
from qact.scores.score import Score


@register("nac", paper="Liu et al. 2024, arXiv 2306.02879")
class NAC(Score):
    r"""``1 - `` the mean over features of ``min(share / full, 1)`` of the bin that each is in.

    The state of feature ``j`` is ``sigmoid(alpha v_j)``, ``v_j = a_j dKL(u || p)/da_j``; the last
    layer is linear, so the gradient is ``W^T (p - 1/K)`` in closed form and no backward pass is
    needed. Bins are dense about one half (``v = 0``), as in the authors' code. The counts are read
    off a :class:`qact.Context` of ``v``: exact to its grid, and mergeable.

    Args:
        alpha: steepness of the sigmoid. Beyond about ``7 / alpha`` all ``v`` share the end bins, so
            it goes with the size of ``v``: 100 is for networks of ImageNet.
        bins: per feature, an even number.
        full: share of the in-distribution samples that makes a bin count in full; the authors' 50
            of 1,000 (``O`` in the paper is the number).
        gradient: with False ``v_j`` is the standardised feature itself, whose context may be one
            that ``qact.record`` has stored; then ``alpha=1`` and bins of equal width serve.
    """

    reads = ("logits", "features")
    coverage: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, alpha: float = 100.0, bins: int = 50, full: float = 0.05, *, gradient: bool = True
    ) -> None:
        super().__init__()
        self.alpha = checks.number("alpha", alpha, "a positive number", 0)
        self.bins = checks.integer("bins", bins, 2)
        if bins % 2:
            raise ValueError(f"bins={bins} must be even: they are mirrored at one half")
        self.full = checks.number("full", full, "in (0, 1]", 0, 1)
        self.gradient = checks.flag("gradient", gradient)

    @property
    def from_context(self) -> bool:  # type: ignore[override]
        """Without gradients the features' own context is enough."""
        return not self.gradient

    def edges(self) -> Tensor:
        """Edges between the bins, in units of ``v``."""
        if self.gradient:  # log_1000 of 1 .. sqrt(1000) up to one half, then mirrored
            left = torch.linspace(1, 1000**0.5, self.bins // 2 + 1, dtype=torch.float64).log()
            left /= 2 * left[-1]
            inner = torch.cat([left[1:], 1 - left[1:-1].flip(0)])
        else:
            inner = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64)[1:-1]
        return (inner.logit() / self.alpha).float()

    def _states(self, outputs: Outputs) -> Tensor:
        a = outputs.of("features").float()
        if not self.gradient:
            return (a - self.mean) / self.std
        p = outputs.logits.float().softmax(1)
        weight = self._bound().head.weight.detach().float()  # type: ignore[union-attr]
        return a * ((p - 1 / p.shape[1]) @ weight)

    def _fit(self, outputs: Outputs) -> None:
        a = outputs.of("features")
        if self.gradient:
            self._count(Context(a.shape[1]).to(a.device).add(self._states(outputs)))
        else:
            self._fit_context(Context(a.shape[1]).to(a.device).add(a.float()))

    def _fit_context(self, context: Context) -> None:
        std = context.std.where(context.std > 0, 1.0)
        self._keep(mean=context.mean.clone(), std=std)
        self._count(context)

    def _count(self, context: Context) -> None:
        """Coverage (D, bins) of every bin."""
        edges = self.edges().to(context.mean.device)[:, None]
        if not self.gradient:
            edges = self.mean + edges * self.std
        ranks = context.cdf(edges.expand(-1, context.num_features))
        whole = torch.cat([torch.zeros_like(ranks[:1]), ranks, torch.ones_like(ranks[:1])])
        self._keep(coverage=(whole.diff(dim=0).T / self.full).clamp(0, 1).float())

    def _score(self, outputs: Outputs) -> Tensor:
        states = self._states(outputs).T.contiguous()
        which = torch.bucketize(states, self.edges().to(states.device), right=True)
        return 1 - self.coverage.gather(1, which).mean(0)
