"""Values that stand far out, kept as they are, so that a grid follows the bulk and merges exactly.

A context that is added to keeps, beside its histogram, all values of a channel while there are no
more than `ALL`, and then the `KEPT` smallest and the `KEPT` largest. Two contexts together have the
extremes of both, and what is no extreme any more moves into the bins, whose place is known: so a
state is a function of the values alone, in whatever order they came.

The grid is a function of those values alone. From the value of rank `RANK` at either end it goes on
for `REACH` times the distance of the two, and no further than there are values; what lies beyond,
less than `RANK` values on a side, collects in the end bins, on its side of zero. With more data the
two only move apart, and the grid is never finer than it was. It holds all values where the two are
equal, and as long as all are known it leaves out no more than `SHARE` of them on a side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.rank.grid import Grid

ALL, KEPT, RANK, REACH, SHARE = 1600, 16, 4, 1.0, 1 / 800


def width(values: float) -> int:
    """How many numbers a channel of so many values keeps."""
    return ALL if values <= ALL else 2 * KEPT


def extent(tails: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """What the grid covers, (C,) float64, by the ``tails`` of ``count`` (C,) values."""
    tails = tails.double().nan_to_num(0.0, 0.0, 0.0)
    size = tails.shape[1]
    known = count.clamp(0, size).long()[:, None]
    there = torch.arange(size, device=tails.device) < known
    rank = ((known + 7) // 8).clamp(1, RANK)
    low, high = tails.gather(1, rank - 1), tails.gather(1, (known - rank).clamp_min(0))
    reach = torch.where(high > low, REACH * (high - low), torch.inf)
    held = (tails >= low - reach) & (tails <= high + reach)
    spare = (SHARE * known.float()).long()
    slot = torch.arange(size, device=tails.device)
    held |= (slot >= spare) & (slot < known - spare) & (count <= size)[:, None]
    held &= there
    low, high = tails.where(held, torch.inf).amin(1), tails.where(held, -torch.inf).amax(1)
    least, most = tails[:, 0], tails.gather(1, (known - 1).clamp_min(0))[:, 0]
    # Grounding asks which side of zero a value is on, however far out: both sides have a bin.
    low = torch.where((least < 0) & (low >= 0), -(2.0**-20) * high, low)
    high = torch.where((most >= 0) & (high < 0), -(2.0**-20) * low, high)
    some = known[:, 0] > 0
    return torch.where(some, low, 0.0), torch.where(some, high, 0.0)


def united(a: Tensor, b: Tensor, count_a: Tensor, count_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tails of both, all values of either (C, n), and which of those there are."""
    found = count_a.clamp_max(a.shape[1]) + count_b.clamp_max(b.shape[1])
    every = torch.cat([a, b], 1).sort(1).values
    known = torch.arange(every.shape[1], device=every.device) < found[:, None]
    size = width(float((count_a + count_b).max()))
    if size == ALL:
        pad = max(ALL - every.shape[1], 0)
        return torch.nn.functional.pad(every, (0, pad), value=torch.inf)[:, :ALL], every, known
    slot = torch.arange(size, device=every.device).expand(len(a), -1)
    skipped = (found - size).clamp_min(0).long()[:, None]  # what is no extreme any more
    return every.gather(1, torch.where(slot >= KEPT, slot + skipped, slot)), every, known


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
