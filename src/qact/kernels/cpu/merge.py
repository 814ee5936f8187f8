"""Contexts added up, compiled: what stands in the bins of one moves to the grid of both."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qact.kernels.cpu.pool import numbers, split
from qact.rank.grid import Grid
from qact.rank.histogram import Histogram, foreign_tails


def settled(
    histogram: Histogram, tails: Tensor, count: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """As :func:`qact.rank.histogram.settled`, to the bit, one channel after the other."""
    old = histogram.grid
    shape = (len(tails), grid.bins)
    mass, moment, bad = np.zeros(shape), np.zeros(shape), np.zeros(len(tails), np.bool_)
    given = histogram.mass, histogram.moment, tails, count, old.width(torch.float64), old.offset
    more = (grid.exponent - old.exponent), grid.offset
    split(_settle, mass.size, len(tails), *map(numbers, (*given, *more)), mass, moment, bad)
    if bad.any():
        raise foreign_tails()
    return torch.from_numpy(mass), torch.from_numpy(moment)


@njit(nogil=True, cache=True)
def _settle(  # type: ignore[no-untyped-def]
    first, last, mass, moment, tails, count, width, old, halvings, new, out, out_moment, bad
):
    bins, goal = mass.shape[1], out.shape[1]
    own, own_moment = np.empty(bins), np.empty(bins)
    tiny = np.finfo(tails.dtype).tiny
    for c in range(first, last):
        own[:], own_moment[:] = 0.0, 0.0
        subnormal = False
        for i in range(min(tails.shape[1], int(count[c]))):
            value = tails[c, i]
            subnormal |= abs(value) < tiny and (value != 0 or np.signbit(value))
            _pour(np.float64(value) / width[c], old[c], own, own_moment)
        up, down = min(max(halvings[c], 0), 62), min(max(-halvings[c], 0), 30)
        shrunk, grown = 2.0**-up, 2.0**down
        for k in range(bins):
            rest = mass[c, k] - own[k]
            # See `qact.rank.histogram.settled`: a subnormal number has no certain side of zero.
            bad[c] |= rest < -0.5 and not subnormal
            part = min(max(moment[c, k] - own_moment[k], 0.0), rest)
            index = k + old[c]
            if halvings[c] >= 0:  # whole bins come together
                cell = index >> up
                part = (rest * np.float64(index - (cell << up)) + part) * shrunk
            else:  # a bin falls into one cell, at its mean
                place = part / max(rest, np.finfo(np.float64).tiny) * grown
                jump = min(np.int64(np.floor(place)), (np.int64(1) << down) - 1)
                cell = (index << down) + jump
                part = rest * (place - jump)
            at = min(max(cell - new[c], 0), goal - 1)
            out[c, at] += rest
            out_moment[c, at] += part if at == cell - new[c] else rest * (cell - new[c] > at)


@njit(nogil=True, cache=True, inline="always")
def _pour(scaled, offset, mass, moment):  # type: ignore[no-untyped-def]
    """Put one value into its bin; beyond the grid, at the end of it."""
    floor = np.floor(scaled)
    cell = np.int64(min(max(floor, -(2.0**62)), 2.0**62)) - offset
    at = min(max(cell, 0), mass.size - 1)
    mass[at] += 1
    moment[at] += scaled - floor if at == cell else np.float64(cell > at)
