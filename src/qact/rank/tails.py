"""Values that stand far out, kept as they are, so that a grid follows the bulk and merges exactly.

A context that is added to keeps, beside its histogram, the ``K`` smallest and the ``K`` largest
values of each channel, ``K = bins / 4`` (all of them while there are no more than ``2 K``). Two
contexts together have the extremes of both, and what is no extreme any more moves into the bins,
whose place is known: so a state is a function of the values alone, in whatever order they came.

The grid is a function of the extremes alone. From the value of rank ``J = K / 4`` at either end it
goes on for as far as `REACH` times the distance of the two, and no further than there are values;
what lies beyond, at most ``J`` values on a side, collects in the end bins. With more data the two
only move apart, and the grid is never finer than it was. (Where they are equal, which is a channel
with at least three quarters of ties, it holds all values.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qact.rank.grid import Grid, at_least, spanning

if TYPE_CHECKING:
    from qact.rank.histogram import Histogram

REACH = 3.0
PARTS = 256


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
    ends = tails.where(held, torch.inf).amin(1), tails.where(held, -torch.inf).amax(1)
    some = known[:, 0] > 0
    return torch.where(some, ends[0], 0.0), torch.where(some, ends[1], 0.0)


def kept(seen: Histogram, tails: Tensor) -> Histogram:
    """The histogram of a batch, with its ``tails`` (C, 2 K) at their exact places, float64."""
    known = torch.arange(tails.shape[1], device=tails.device) < seen.count.round()[:, None]
    old, new = pour(tails, known, seen.grid, PARTS), pour(tails, known, seen.grid)
    moment = seen.moment.double() - old[1] + new[1]
    return replace(seen, mass=seen.mass.double(), moment=moment, tails=tails)


def joined(a: Histogram, b: Histogram, tails: tuple[Tensor, Tensor]) -> tuple[Histogram, ...]:
    """Parts on one grid whose masses add up to both contexts, float64; the first has the tails."""
    from qact.rank.histogram import regrid

    counts = a.count.round(), b.count.round()
    size, total = tails[0].shape[1], counts[0] + counts[1]
    found = [n.clamp_max(size).long()[:, None] for n in counts]
    every = torch.cat(tails, 1).sort(1).values
    known = torch.arange(2 * size, device=every.device) < found[0] + found[1]
    slot = torch.arange(size, device=every.device).expand(len(total), -1)
    last = found[0] + found[1] - size
    new = every.gather(1, torch.where((slot >= size // 2) & (last > 0), slot + last, slot))
    low, high = extent(new, total)
    grid = spanning(low, high, a.grid.bins, a.mean.dtype)
    for part, count in zip((a, b), counts, strict=True):
        binned = count > size  # without values in bins alone a grid may get finer
        grid = at_least(grid, torch.where(binned, part.grid.exponent, grid.exponent), low, high)
    cores = []
    for part, own, n in zip((a, b), tails, found, strict=True):
        mass, moment = pour(own, torch.arange(size, device=own.device) < n, part.grid)
        mass = part.mass - mass
        moment = (part.moment - moment).clamp_min(0).minimum(mass)  # what float32 has rounded
        cores.append(regrid(replace(part, mass=mass, moment=moment), grid))
    mass, moment = pour(every, known, grid)
    return replace(a, mass=mass, moment=moment, grid=grid, tails=new), *cores


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
