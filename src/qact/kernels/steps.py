"""Step ranks ``F(z) = F_low + sum_i w_i 1[z_i <= z]``, with ties in full.

A batch in its own context is sorted: no histogram can place ties and heavy tails within 1/400. A
stored context answers with a step at the mean of each bin, so it errs by up to half a bin's mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.kernels.passes import PARTS, flat, locate
from qact.kernels.tables import bin_weights
from qact.rank.grid import EARLY, Grid
from qact.rank.histogram import Histogram
from qact.rank.rule import Rule


def led(histogram: Histogram) -> Histogram:
    """The same with an empty bin before, where all is that lies below the first bin's values.

    Without it that bin would answer for them, and a value at its very edge would count as reached.
    """
    grid, pad = histogram.grid, torch.nn.functional.pad
    mass, moment = pad(histogram.mass, (1, 0)), pad(histogram.moment, (1, 0))
    wider = Grid(grid.exponent, grid.offset - 1, grid.bins + 1)
    # Written out: torch 2.6 compiles no dataclasses.replace.
    return Histogram(mass, moment, wider, histogram.mean, histogram.std)


def stored_table(histogram: Histogram, rule: Rule) -> Tensor:
    """All the values that ``F`` takes in a context :func:`led`: the mass before each edge."""
    scale, low = bin_weights(histogram, rule)
    before = torch.nn.functional.pad((histogram.mass * scale).cumsum(1), (1, 0))
    return (before + low[:, None]).clamp(0, 1)


def step_places(histogram: Histogram) -> Tensor:
    """The place in each bin, in 256ths, from which on its values count: just before their mean.

    In the bin that begins at zero it stays behind zero, whose rank is that of the negative values.
    """
    tiny, grid = torch.finfo(torch.float32).tiny, histogram.grid
    mean = histogram.moment * PARTS / histogram.mass.clamp_min(tiny)
    at_zero = torch.arange(grid.bins, device=mean.device) + grid.offset[:, None] == 0
    return torch.where(at_zero & (mean > 1e-3), (mean - EARLY).clamp_min(1e-3), mean - EARLY)


def stored_place(z: Tensor, histogram: Histogram) -> Tensor:
    """Where ``F(z)`` stands in the flattened table: a bin counts from the mean of what fell in."""
    cell, place = locate(z, histogram.grid)
    reached = (place * PARTS).round() >= step_places(histogram).flatten()[
        flat(cell, histogram.grid.bins)
    ]
    return flat(cell, histogram.grid.bins + 1) + (reached | (place >= 1))


def own_rank(z: Tensor, rule: Rule) -> Tensor:
    """The step rank of a batch in its own context: its place when sorted, ties at their end."""
    values = z.detach().transpose(0, 1).flatten(1)
    ordered, place = values.sort(dim=1)
    n = values.shape[1]
    last = torch.arange(1, n + 1, device=z.device).expand_as(ordered).clone()
    last[:, :-1][ordered[:, 1:] == ordered[:, :-1]] = n
    last = last.flip(1).cummin(1).values.flip(1)
    upto = torch.empty_like(last).scatter_(1, place, last).to(z.dtype)
    if rule.grounded:
        below = (values < 0).sum(1, keepdim=True).to(z.dtype)
        left, right = below + rule.sentinels, n - below + rule.sentinels
        rank = torch.where(
            values < 0,
            0.5 * (upto + rule.sentinels) / left.clamp_min(1),
            0.5 + 0.5 * (upto - below) / right.clamp_min(1),
        )
    else:
        rank = upto / n
    rank = torch.where(torch.isfinite(values).all(1, keepdim=True), rank, torch.nan)
    return rank.reshape(-1, z.shape[0], z.shape[2]).transpose(0, 1)
