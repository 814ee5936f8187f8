"""Transported activations: the map of one distribution of a neuron onto another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qact import checks
from qact.activations.recompute import widened
from qact.activations.registry import register
from qact.activations.shell import Shell
from qact.context import Context
from qact.kernels import tables
from qact.rank.layout import channel_dim, fold, unfold
from qact.rank.quantiles import order_statistics
from qact.rank.rule import Rule

MAPS = ("exact", "linear", "mean")
KNOTS = 129


def _outermost(single: int = 64, most: int = 1_000_000) -> Tensor:
    """Places from the end of a sorted sample: one by one, then each 1.1 times as far out."""
    places = list(range(single))
    while places[-1] < most:
        places.append(max(places[-1] + 1, math.ceil(1.1 * places[-1])))
    return torch.tensor(places, dtype=torch.float64)


_TAIL = _outermost()


def transport(
    input: Tensor,
    source: Context,
    target: Context,
    map: str = "exact",
    *,
    strength: float = 1.0,
    dim: int = 1,
    knots: int = KNOTS,
) -> Tensor:
    """Optimal transport of each channel from ``source`` to ``target``, two stored contexts.

    Rodriguez et al. 2024, arXiv 2410.23054. ``"exact"`` is ``G^-1(F(a))``, a rank followed by a
    quantile (the inverse of the empirical CDF), here piecewise linear through ``knots`` pairs of
    quantiles of equal mass, the outermost values one by one, and both ends, beyond which the slope
    is that of the linear map. ``"linear"`` is Linear-AcT, ``omega a + beta`` with
    ``omega = sum (a_(i) - m_a)(b_(i) - m_b) / sum (a_(i) - m_a)^2`` over the sorted values, which
    for Gaussians is the exact map. ``"mean"`` adds ``m_b - m_a``, a steering vector. The output is
    ``(1 - strength) a + strength T(a)``.

    Raises:
        RuntimeError: a context has seen no data.
        ValueError: the channels do not fit, or ``map`` is unknown.

    Example:
        >>> source = Context(1).add(torch.tensor([[0.0], [1.0], [2.0]]))
        >>> target = Context(1).add(torch.tensor([[1.0], [3.0], [5.0]]))
        >>> transport(torch.tensor([[3.0]]), source, target, "linear").round(decimals=1)
        tensor([[7.]])
    """
    checks.choice("map", map, MAPS)
    checks.integer("knots", knots, 3)
    for context in (source, target):
        context.require_data()
        if context.num_features != input.shape[channel_dim(input, dim)]:
            raise ValueError(
                f"the input has shape {tuple(input.shape)}; expected {context.num_features} "
                f"channels at dim {dim}, as a context has"
            )
    return _transported(input, source, target, map, strength, dim, knots)


def _transported(
    input: Tensor,
    source: Context,
    target: Context,
    map: str,
    strength: float,
    dim: int,
    knots: int = KNOTS,
) -> Tensor:
    z = fold(widened(input), dim)
    known = ((source.count > 0) & (target.count > 0))[:, None]
    levels, middle = _levels(torch.minimum(source.count, target.count), knots)

    def quantiles(context: Context, at: Tensor) -> Tensor:
        # Equal quantiles make the identity: what a channel gets of which nothing is known.
        return _quantiles(context, at).to(z.dtype).where(known, 0.0)

    omega, beta = _line(quantiles(source, middle), quantiles(target, middle), map == "mean")
    if map == "exact":
        moved = _interpolated(z, quantiles(source, levels), quantiles(target, levels), omega)
    else:
        moved = omega * z + beta
    return unfold(torch.lerp(z, moved, strength), input, dim).to(input.dtype)


def _levels(count: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """Return the levels (C, K) of the knots, in order, and (1, knots) the middles of equal shares.

    A share of the mass holds many values where there are many. Between its middle and the end lies
    the tail, in which every value counts: there the levels are those of single values, until they
    are no denser than the middles.
    """
    count = count.double()[:, None]
    middle = (torch.arange(knots, device=count.device, dtype=count.dtype) + 0.5)[None] / knots
    tail = ((_TAIL.to(count) + 0.5) / count).nan_to_num(1.0).clamp(max=min(10 / knots, 0.5))
    ends = torch.zeros_like(count)
    parts = [ends, tail, middle.expand(len(count), -1), 1 - tail, 1 - ends]
    return torch.cat(parts, 1).sort(1).values, middle


@torch.no_grad()
def _quantiles(context: Context, levels: Tensor) -> Tensor:
    # In float64: a level near 1 has few digits left for how far it is from 1.
    wide = context.histogram.to(torch.float64)
    if wide.tails is not None:
        return order_statistics(wide, levels.expand(len(wide.mass), -1))
    return tables.quantile(wide, levels, Rule(grounded=False, smooth=False))


def _line(a: Tensor, b: Tensor, shift: bool) -> tuple[Tensor, Tensor]:
    """Slope and intercept (C, 1) of the regression of sorted ``b`` on sorted ``a``."""
    mean_a, mean_b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
    spread = (a - mean_a).square().sum(1, keepdim=True)
    omega = ((a - mean_a) * (b - mean_b)).sum(1, keepdim=True) / spread
    omega = torch.where((spread > 0) & (not shift), omega, 1.0)
    return omega, mean_b - omega * mean_a


def _interpolated(z: Tensor, a: Tensor, b: Tensor, omega: Tensor) -> Tensor:
    """Piecewise linear through ``(a_k, b_k)``, slope ``omega`` beyond; ``z`` (N, C, L)."""
    columns = z.transpose(0, 1).reshape(z.shape[1], -1)
    place = torch.searchsorted(a, columns.detach().contiguous(), right=True)
    left = (place - 1).clamp(0, a.shape[1] - 2)
    a_0, a_1, b_0, b_1 = (t.gather(1, index) for t in (a, b) for index in (left, left + 1))
    gap = a_1 - a_0
    slope = torch.where(gap > 0, (b_1 - b_0) / torch.where(gap > 0, gap, 1.0), 0.0)
    moved = b_0 + slope * (columns - a_0)
    below, above = columns < a[:, :1], columns > a[:, -1:]
    moved = torch.where(below, b[:, :1] + omega * (columns - a[:, :1]), moved)
    moved = torch.where(above, b[:, -1:] + omega * (columns - a[:, -1:]), moved)
    return moved.view(z.shape[1], z.shape[0], z.shape[2]).transpose(0, 1)


@register(
    "transported",
    paper="Rodriguez et al. 2024, arXiv 2410.23054",
    formula="G^-1(F(a))",
    needs_features=True,
    alone=False,
)
class Transported(Shell):
    """Module of :func:`transport` between the contexts ``source`` and ``target`` that it owns.

    In training the layer is the identity and ``target`` follows the batches: it learns what its
    inputs look like. Fill ``source`` with what they look like now, and ``eval()`` maps them back:

    Example:
        >>> layer = Transported(1)
        >>> x = torch.randn(500, 1)
        >>> _ = layer(x)
        >>> _ = layer.source.add(3 * x + 1)
        >>> bool((layer.eval()(3 * x + 1) - x).abs().mean() < 0.05)
        True

    While one of the contexts is empty the layer is the identity.
    """

    shown = ("num_features", "map", "strength", "dim")

    def __init__(
        self,
        num_features: int,
        map: str = "exact",
        strength: float = 1.0,
        dim: int = 1,
        inplace: bool = False,
    ) -> None:
        super().__init__(inplace)
        self.map, self.dim = checks.choice("map", map, MAPS), checks.integer("dim", dim)
        self.num_features = checks.integer("num_features", num_features, 1)
        self.strength = strength
        self.source, self.target = Context(num_features), Context(num_features)

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`transport`; in training, note the input."""
        if self.training:
            self.target.add(input.detach(), dim=self.dim)
            return input
        return _transported(input, self.source, self.target, self.map, self.strength, self.dim)
