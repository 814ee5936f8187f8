"""The exponential moving average of a context: it moves towards a batch, and its grid with it."""

from __future__ import annotations

import torch
from torch import Tensor

from qact._compat import replace
from qact.rank.grid import Grid, spanning
from qact.rank.histogram import Histogram, merge_on, recentred

# Mass that a running context may sweep into its end bins to keep its grid on what is common.
TRIM = 1e-4
# Share of its bins that a grid must need. Somewhat less than a half, or extremes that differ from
# batch to batch would make it finer and coarser in turn, and each move blurs what is stored.
FULL = 7 / 16
# Share of one value below which a bin is forgotten, long before its mass would be a denormal.
TRACE = 2.0**-64


def moved(stored: Histogram, seen: Histogram, rate: Tensor) -> Histogram:
    """``(1 - rate) stored + rate seen``, on the bins of ``stored``.

    The grid stays while it holds the batch and the share `FULL` of it is needed: then bins, mean
    and spread are the exact moving averages. A channel on a new grid reads its mean and spread off
    the bins: a freak value that has left those must leave the spread too. An empty channel becomes
    what it sees; one that sees something not finite stays as it was.
    """
    sound = torch.isfinite(seen.mean)
    rate = torch.where(stored.count > 0, rate, 1.0) * sound
    grid, stays = _common(stored, seen, stored.grid.bins)
    mix = _remembered(merge_on(grid, stored.scaled(1 - rate), seen.scaled(rate)))
    read = recentred(mix)
    mean, std = torch.where(stays, mix.mean, read.mean), torch.where(stays, mix.std, read.std)
    return Histogram(
        torch.where(sound[:, None], mix.mass, stored.mass),
        torch.where(sound[:, None], mix.moment, stored.moment),
        Grid(
            torch.where(sound, grid.exponent, stored.grid.exponent),
            torch.where(sound, grid.offset, stored.grid.offset),
            grid.bins,
        ),
        torch.where(sound, mean, stored.mean),
        torch.where(sound, std, stored.std),
    )


def _remembered(histogram: Histogram) -> Histogram:
    kept = histogram.mass >= TRACE
    return replace(histogram, mass=histogram.mass * kept, moment=histogram.moment * kept)


def _common(stored: Histogram, seen: Histogram, bins: int) -> tuple[Grid, Tensor]:
    """A grid for the batch and for all of the stored mass but its rarest `TRIM`.

    Returns:
        The grid, and which channels (C,) stay on that of ``stored``.
    """
    low, high = _extent(seen, 0.0)
    low_stored, high_stored = _extent(stored, TRIM)
    some, old = stored.count > 0, stored.grid
    width = old.width(torch.float64)
    inside = (low >= old.offset * width) & (high <= (old.offset + bins) * width)
    low = torch.where(some, torch.minimum(low, low_stored), low)
    high = torch.where(some, torch.maximum(high, high_stored), high)
    new = spanning(low, high, bins, stored.mass.dtype)
    coarse = (high - low <= FULL * bins * width) & (new.exponent < old.exponent)
    stays = some & inside & ~coarse
    exponent = torch.where(stays, old.exponent, new.exponent)
    return Grid(exponent, torch.where(stays, old.offset, new.offset), bins), stays


def _extent(histogram: Histogram, trim: float) -> tuple[Tensor, Tensor]:
    """Edges of the cells that hold all but a share ``trim`` of the mass on each side, float64."""
    share = histogram.mass.double().cumsum(1)
    total = share[:, -1:]
    first = (share <= trim * total).sum(1)
    last = (share < (1 - trim) * total).sum(1) + 1
    width = histogram.grid.width(torch.float64)
    edge = histogram.grid.offset
    return (edge + first) * width, (edge + last.clamp_max(histogram.grid.bins)) * width
