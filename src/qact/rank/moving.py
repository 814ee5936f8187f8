"""The exponential moving average of a context: it moves towards a batch, and its grid with it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qact.rank.grid import Grid, spanning
from qact.rank.histogram import Histogram, merge_on, recentred

# Mass that a running context may sweep into its end bins to keep its grid on what is common.
TRIM = 1e-4
# Share of one value below which a bin is forgotten, long before its mass would be a denormal.
TRACE = 2.0**-64


def moved(stored: Histogram, seen: Histogram, rate: Tensor) -> Histogram:
    """``(1 - rate) stored + rate seen``, on the bins of ``stored``.

    An empty channel becomes what it sees; one that sees something not finite stays as it was.
    """
    sound = torch.isfinite(seen.mean)
    rate = torch.where(stored.count > 0, rate, 1.0) * sound
    grid = _common(stored, seen, stored.grid.bins)
    # A freak value leaves the bins within one batch, and must leave the spread as soon.
    mix = merge_on(grid, stored.scaled(1 - rate), seen.scaled(rate))
    mix = recentred(_remembered(mix))
    return Histogram(
        torch.where(sound[:, None], mix.mass, stored.mass),
        torch.where(sound[:, None], mix.moment, stored.moment),
        Grid(
            torch.where(sound, grid.exponent, stored.grid.exponent),
            torch.where(sound, grid.offset, stored.grid.offset),
            grid.bins,
        ),
        torch.where(sound, mix.mean, stored.mean),
        torch.where(sound, mix.std, stored.std),
    )


def _remembered(histogram: Histogram) -> Histogram:
    kept = histogram.mass >= TRACE
    return replace(histogram, mass=histogram.mass * kept, moment=histogram.moment * kept)


def _common(stored: Histogram, seen: Histogram, bins: int) -> Grid:
    """A grid for the batch and for all of the stored mass but its rarest `TRIM`."""
    low, high = _extent(seen, 0.0)
    low_stored, high_stored = _extent(stored, TRIM)
    some = stored.count > 0
    low = torch.where(some, torch.minimum(low, low_stored), low)
    high = torch.where(some, torch.maximum(high, high_stored), high)
    return spanning(low, high, bins, stored.mass.dtype)


def _extent(histogram: Histogram, trim: float) -> tuple[Tensor, Tensor]:
    """Edges of the cells that hold all but a share ``trim`` of the mass on each side, float64."""
    share = histogram.mass.double().cumsum(1)
    total = share[:, -1:]
    first = (share <= trim * total).sum(1)
    last = (share < (1 - trim) * total).sum(1) + 1
    width = histogram.grid.width(torch.float64)
    edge = histogram.grid.offset
    return (edge + first) * width, (edge + last.clamp_max(histogram.grid.bins)) * width
