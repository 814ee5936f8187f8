"""Contexts that merge to the bit: a function of the values alone, however these were divided.

Masses are integers and places are counted in 256ths of a bin, so both add up exactly. What is left
to chance in a :class:`qact.Context` is fixed here: cells are those of a :class:`Frame`, which the
reference chose, and mean and spread are read off them. So merging by row, by hour or by query gives
the same bits, and every window has the edges at which it is compared with the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qact.context import Context
from qact.kernels import engines
from qact.rank.grid import Grid, spanning, union
from qact.rank.histogram import Histogram, merge, recentred

BINS = 512
NEAR = 6


@dataclass(frozen=True)
class Frame:
    """Per channel the grid that windows are counted on: its ``exponent`` and ``middle`` cell.

    The reference fills a quarter to a half of it; values beyond collect in the last cell on their
    side, as a coarser grid would have other edges.
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
    """Count finite values (N, C, L), float32, each in its cell of the frame."""
    width = frame.grid.width(torch.float64)
    low, high = frame.grid.offset, frame.grid.offset + BINS
    extent = torch.stack([z.amin((0, 2)), z.amax((0, 2))]).double() / width
    first, last = extent.floor().clamp(-(2.0**60), 2.0**60).long().clamp(low, high - 1)
    # Around what is there, as merging places it: the same grid however values were divided.
    grid = union(frame.exponent, first, last + 1, frame.exponent, first, last + 1, BINS)
    # Numbers of float32 just below the frame's end, so that what lies beyond counts as the last.
    ends = (low * width).float(), torch.nextafter((high * width).float(), low.float())
    held = torch.minimum(torch.maximum(z, ends[0][:, None]), ends[1][:, None]).contiguous()
    mass, moment = engines.passes(None, held).count(held, grid)
    blank = mass.new_zeros(len(mass))
    return Histogram(mass.double(), moment.double(), grid, blank, blank)


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
    blank = torch.zeros(frame.channels, BINS, dtype=torch.float64, device="cpu")
    zero = torch.zeros(frame.channels, dtype=torch.float32, device="cpu")
    return Histogram(blank, blank.clone(), frame.grid, zero, zero.clone())
