"""The map of one context onto another by rank, ``Q_source(F_test(z))``, as a table per channel."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.kernels.passes import interpolate
from qact.kernels.tables import edge_weights
from qact.rank.grid import Grid
from qact.rank.histogram import Histogram, varied
from qact.rank.moments import union
from qact.rank.rule import Rule

PLAIN = Rule(grounded=False, smooth=False)


def rank_map(test: Histogram, source: Histogram, share: float = 1.0, shape: float = 1.0) -> Tensor:
    """Return where the edges of ``test``'s grid go, (C, bins + 1) float64, never decreasing.

    ``T(z) = Q_source(F(z))`` with ``F = share F_test + (1 - share) F_source``: the rank that
    stands for ``N = n_test / share`` values. Ranks are told from ``1 / (2 N)`` to
    ``1 - 1 / (2 N)`` (with ``n_source`` if that is less); beyond, ``T`` goes on as a line of slope
    ``std_source / std``. ``shape`` in [0, 1] leads from the line that matches mean and spread
    alone, as BatchNorm does, to ``T``.

    A value in the middle of an otherwise empty bin has its middle rank exactly: bins are divided
    between their edges, and half of an edge's weight lies below it.
    """
    test, source = test.to(torch.float64), source.to(torch.float64)
    edges, known = _edges(test.grid), _ranks(source)
    rank = _ranks(test)
    if share < 1:
        there = interpolate(edges[None], known, source.grid)[0]
        rank = torch.lerp(there, rank, share)
    least = torch.maximum(0.5 * share / test.count, 0.5 / source.count)[:, None].clamp_max(0.5)
    told = (rank >= least) & (rank <= 1 - least)
    line = _line(edges, test, source, share)
    gap = _continued(_inverse(rank, known, source.grid) - line, told)
    return line + shape * gap


def _ranks(histogram: Histogram) -> Tensor:
    """Middle ranks at the edges, (C, bins + 1)."""
    weights, _ = edge_weights(histogram, PLAIN)
    return weights.cumsum(1) - weights / 2


def _inverse(rank: Tensor, known: Tensor, grid: Grid) -> Tensor:
    """The values at which the table ``known`` of ranks reaches ``rank``."""
    cell = torch.searchsorted(known, rank).clamp(1, grid.bins)
    left, right = known.gather(1, cell - 1), known.gather(1, cell)
    rise = right - left
    place = ((rank - left) / torch.where(rise > 0, rise, 1.0)).clamp(0, 1)
    return (grid.offset[:, None] + cell - 1 + place) * grid.width(torch.float64)[:, None]


def slope(test: Histogram, source: Histogram, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the slope with which the map goes on beyond all ranks, and the mean there, (C,)."""
    mean, variance = union((source.mean, source.std**2), (test.mean, test.std**2), share)
    std = variance.sqrt()
    some = varied(mean.float(), std.float())
    return torch.where(some, source.std / torch.where(some, std, 1.0), 1.0), mean


def _line(edges: Tensor, test: Histogram, source: Histogram, share: float) -> Tensor:
    """The line that takes mean and spread of the mixture to those of the source."""
    omega, mean = slope(test, source, share)
    return source.mean[:, None] + omega[:, None] * (edges - mean[:, None])


def _continued(gap: Tensor, told: Tensor) -> Tensor:
    """``gap`` where ``told``, its outermost such value beyond, zero in channels without any."""
    index = torch.arange(gap.shape[1], device=gap.device)
    first = torch.where(told, index, gap.shape[1]).amin(1, keepdim=True)
    last = torch.where(told, index, -1).amax(1, keepdim=True)
    near = torch.minimum(torch.maximum(index, first), last).clamp_min(0)
    return torch.where(last >= 0, gap.gather(1, near), 0.0)


def _edges(grid: Grid) -> Tensor:
    """The edges of the bins, (C, bins + 1)."""
    index = torch.arange(grid.bins + 1, device=grid.offset.device) + grid.offset[:, None]
    return index * grid.width(torch.float64)[:, None]
