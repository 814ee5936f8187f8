"""Contexts that merge to the bit: a function of the values alone, however these were divided.

Masses are integers and places are counted in 256ths of a bin, so both add up exactly. What is left
to chance in a :class:`qact.Context` is fixed here: the grid is never finer than ``2**exponent`` of
a :class:`Frame`, which the reference chose, and only as coarse as the occupied cells ask for; mean
and spread are read off the bins. So merging by row, by hour or by query gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qact.context import Context
from qact.kernels import engines
from qact.rank.grid import Grid, spanning, union
from qact.rank.histogram import Histogram, merge, recentred, regrid

BINS = 256
NEAR = 6
ROOM = 4  # a window's grid is at most 2^ROOM times as wide as that of the reference


@dataclass(frozen=True)
class Frame:
    """Per channel the finest grid that windows are counted on: ``exponent`` and ``middle`` cell.

    Values more than ``2**ROOM`` grids away from the middle collect in the last cell there: a single
    freak must not cost all others their resolution.
    """

    exponent: Tensor
    middle: Tensor

    @classmethod
    def around(cls, z: Tensor) -> Frame:
        """The frame in which values (N, C, L) fill between a quarter and a half of the bins.

        A channel that was nearly constant may wake up: it gets no finer grid than ``2**-NEAR`` of
        the widest one.
        """
        low, high = z.amin((0, 2)).double(), z.amax((0, 2)).double()
        span = (high - low).amax()
        span = span if span > 0 else torch.maximum(low.abs(), high.abs()).amax().clamp_min(1e-30)
        pad = ((2.0**-NEAR * span - (high - low)) / 2).clamp_min(0)
        grid = spanning(low - pad, high + pad, BINS // 2, torch.float32)
        return cls(grid.exponent, grid.offset + grid.bins // 2)

    @property
    def grid(self) -> Grid:
        """The grid of ``BINS`` cells around the middle."""
        return Grid(self.exponent, self.middle - BINS // 2, BINS)

    @property
    def channels(self) -> int:
        """How many channels."""
        return len(self.exponent)


def sketch(z: Tensor, frame: Frame) -> Histogram:
    """Count finite values (N, C, L), float32, each in its cell of the frame or a coarser one."""
    width = frame.grid.width(torch.float64)
    reach = BINS << (ROOM - 1)
    low, high = frame.middle - reach, frame.middle + reach
    extent = torch.stack([z.amin((0, 2)), z.amax((0, 2))]).double() / width
    first, last = extent.floor().clamp(-(2.0**60), 2.0**60).long().clamp(low, high - 1)
    grid = union(frame.exponent, first, last + 1, frame.exponent, first, last + 1, BINS)
    # Numbers of float32 just below the frame's end, so that what lies beyond counts as the last.
    ends = (low * width).float(), torch.nextafter((high * width).float(), low.float())
    held = torch.minimum(torch.maximum(z, ends[0][:, None]), ends[1][:, None]).contiguous()
    # Counted on the frame's own cells and added up from there: places are rounded once.
    halvings = grid.exponent - frame.exponent
    fine = Grid(frame.exponent, grid.offset << halvings, BINS << int(halvings.amax()))
    mass, moment = engines.passes(None, held).count(held, fine)
    blank = mass.new_zeros(len(mass))
    return regrid(Histogram(mass.double(), moment.double(), fine, blank, blank), grid)


def merged(a: Histogram, b: Histogram) -> Histogram:
    """Both together; associative and commutative to the bit."""
    return merge(a, b, BINS)


def context(histogram: Histogram) -> Context:
    """What was counted as a context, mean and spread read off its bins."""
    plain = replace(histogram, mean=histogram.mean.float(), std=histogram.std.float())
    return Context.of(recentred(plain))


def below(histogram: Histogram, cells: Tensor, exponent: Tensor) -> Tensor:
    """The share of values below the edges ``cells * 2**exponent`` (C, K), float64.

    Exact where the histogram's grid has these edges, else linear within a bin.
    """
    counts = torch.nn.functional.pad(histogram.mass.cumsum(1), (1, 0))
    scale = torch.exp2((exponent - histogram.grid.exponent).double())[:, None]
    place = (cells * scale - histogram.grid.offset[:, None]).clamp(0, histogram.grid.bins)
    left = place.floor().clamp_max(histogram.grid.bins - 1).long()
    low, high = counts.gather(1, left), counts.gather(1, left + 1)
    return (low + (high - low) * (place - left)) / counts[:, -1:]


def nothing(frame: Frame) -> Histogram:
    """A sketch of no values."""
    blank = torch.zeros(frame.channels, BINS, dtype=torch.float64)
    zero = torch.zeros(frame.channels)
    return Histogram(blank, blank.clone(), frame.grid, zero, zero.clone())
