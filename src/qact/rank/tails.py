"""Values that stand far out, kept as they are, so that a grid follows the bulk and merges exactly.

A context that is added to keeps, beside its histogram, the ``K`` smallest and the ``K`` largest
values of each channel, ``K = bins / 4`` (all of them while there are no more than ``2 K``). Two
contexts together have the extremes of both, and what is no extreme any more moves into the bins,
whose place is known: so a state is a function of the values alone, in whatever order they came.

The grid is a function of the extremes alone. From the value of rank ``J = K / 4`` at either end it
goes on for `REACH` times the distance of the two, and no further than there are values;
what lies beyond, at most ``J`` values on a side, collects in the end bins, on its side of zero.
With more data the two only move apart: the grid is never finer than it was. (Where they are equal,
which is a channel with at least three quarters of ties, it holds all values.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.rank.grid import Grid

REACH = 3.0


def depth(bins: int) -> int:
    """``K``: how many values are kept on each side."""
    return 4 * max(bins // 16, 1)


def extent(tails: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """What the grid covers, (C,) float64, by the ``tails`` (C, 2 K) of ``count`` (C,) values."""
    tails = tails.double().nan_to_num(0.0, 0.0, 0.0)
    size = tails.shape[1]
    known = count.clamp(0, size).long()[:, None]
    rank = torch.minimum((known + 7) // 8, torch.full_like(known, size // 8)).clamp_min(1)
    low = tails.gather(1, rank - 1)
    high = tails.gather(1, (known - rank).clamp_min(0))
    reach = torch.where(high > low, REACH * (high - low), torch.inf)
    held = (tails >= low - reach) & (tails <= high + reach)
    held &= torch.arange(size, device=tails.device) < known
    low, high = tails.where(held, torch.inf).amin(1), tails.where(held, -torch.inf).amax(1)
    least, most = tails[:, 0], tails.gather(1, (known - 1).clamp_min(0))[:, 0]
    # Grounding asks which side of zero a value is on, however far out: both sides have a bin.
    low = torch.where((least < 0) & (low >= 0), -(2.0**-20) * high, low)
    high = torch.where((most >= 0) & (high < 0), -(2.0**-20) * low, high)
    some = known[:, 0] > 0
    return torch.where(some, low, 0.0), torch.where(some, high, 0.0)


def united(a: Tensor, b: Tensor, count_a: Tensor, count_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tails (C, 2 K) of both, all values of either (C, 4 K), and which of those there are."""
    size = a.shape[1]
    found = count_a.clamp_max(size) + count_b.clamp_max(size)
    every = torch.cat([a, b], 1).sort(1).values
    known = torch.arange(2 * size, device=every.device) < found[:, None]
    slot = torch.arange(size, device=every.device).expand(len(a), -1)
    skipped = (found - size).clamp_min(0).long()[:, None]  # what is no extreme any more
    tails = every.gather(1, torch.where(slot >= size // 2, slot + skipped, slot))
    return tails, every, known


def pour(
    values: Tensor, known: Tensor, grid: Grid, parts: int | None = None
) -> tuple[Tensor, Tensor]:
    """Mass and moment (C, bins) float64 of those ``values`` (C, n) that are ``known``.

    What the grid does not hold collects at its ends. ``parts`` rounds places as counting does.
    """
    scaled = values.double().where(known, 0.0) / grid.width(torch.float64)[:, None]
    floor = scaled.floor()
    free = floor.clamp(-(2.0**62), 2.0**62).long() - grid.offset[:, None]
    cell = free.clamp(0, grid.bins - 1)
    place = torch.where(free == cell, scaled - floor, (free > cell).double())
    if parts is not None:
        place = (place * parts).round() / parts
    blank = place.new_zeros(len(cell), grid.bins)
    return blank.scatter_add(1, cell, known.double()), blank.scatter_add(1, cell, place * known)
