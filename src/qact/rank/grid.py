"""Dyadic grids: every bin is ``2**exponent`` wide and starts at a multiple of its width.

Two consequences carry the library. Zero is an edge of every grid, so a histogram knows the sign of
all that it counted. And a coarser grid's bins are unions of a finer one's, so histograms of
different batches, epochs or machines add up exactly, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Positions inside a bin are counted in 256ths, so that sums are integers: the same in any order.
PARTS = 256
# How many parts before the mean of a bin its step stands. Equal values are rounded to whole parts,
# of bins that may have been finer once: their mean lies up to one beyond where they are read.
EARLY = 1 + 1e-3
# Widths and their reciprocals are normal numbers of the dtype, and integers up to this are exact.
LIMITS = {torch.float32: (-120, 126, 2.0**23), torch.float64: (-1000, 1022, 2.0**50)}


@dataclass(frozen=True)
class Grid:
    """Per channel, ``bins`` cells ``[(offset + k) w, (offset + k + 1) w)``, ``w = 2**exponent``."""

    exponent: Tensor
    offset: Tensor
    bins: int

    def width(self, dtype: torch.dtype) -> Tensor:
        """Bin width per channel (C,), an exact power of two."""
        return power_of_two(self.exponent, dtype)

    def negative(self) -> Tensor:
        """Which bins lie below zero: a mask (C, bins)."""
        index = torch.arange(self.bins, device=self.offset.device)
        return index + self.offset[:, None] < 0


def stored(exponent: Tensor, offset: Tensor, bins: int) -> Grid:
    """A grid from the floating numbers that buffers keep.

    They are floating so that an average of two grids, which is none, can be told: see
    :func:`whole`.
    """
    return Grid(exponent.round().int(), offset.round().long(), bins)


def whole(numbers: Tensor) -> Tensor:
    """Whether each is an integer, up to the rounding of a mean of equal ones."""
    if not numbers.is_floating_point():
        return torch.ones_like(numbers, dtype=torch.bool)
    slack = 4 * torch.finfo(numbers.dtype).eps * numbers.abs().clamp_min(1)
    return (numbers - numbers.round()).abs() <= slack


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """``2**exponent``, exactly: written as the bits of the number.

    >>> power_of_two(torch.tensor([-2, 0, 3]), torch.float32)
    tensor([0.2500, 1.0000, 8.0000])
    """
    if dtype == torch.float64:
        return ((exponent.long() + 1023) << 52).view(torch.float64)
    return ((exponent.int() + 127) << 23).view(torch.float32)


def spanning(low: Tensor, high: Tensor, bins: int, dtype: torch.dtype = torch.float32) -> Grid:
    """The finest dyadic grid of ``bins`` bins that covers ``[low, high]``, for data of ``dtype``.

    >>> grid = spanning(torch.tensor([-1.0]), torch.tensor([3.0]), bins=8)
    >>> int(grid.exponent), int(grid.offset)
    (-1, -2)
    """
    smallest, largest, exact = LIMITS[dtype]
    low, high = low.double(), high.double()
    magnitude = torch.maximum(low.abs(), high.abs())
    # Finer than the numbers' own spacing is of no use, and offsets would no longer be exact.
    width = torch.maximum(high / bins - low / bins, magnitude / exact)
    mantissa, exponent = torch.frexp(width)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    exponent = torch.where(mantissa == 0, smallest, exponent).clamp(smallest, largest)
    width = power_of_two(exponent, torch.float64)
    fits = torch.ceil(high / width) - torch.floor(low / width) <= bins
    exponent = torch.where(fits, exponent, exponent + 1)
    width = power_of_two(exponent, torch.float64)
    first, last = torch.floor(low / width), torch.ceil(high / width)
    return Grid(exponent.int(), _centred(first.long(), last.long(), bins), bins)


def at_least(grid: Grid, exponent: Tensor, low: Tensor, high: Tensor) -> Grid:
    """The grid, or a coarser one of that ``exponent``, around ``[low, high]``, both (C,)."""
    coarser = torch.maximum(grid.exponent, exponent)
    width = power_of_two(coarser, torch.float64)
    first, last = torch.floor(low.double() / width), torch.ceil(high.double() / width)
    offset = _centred(first.long(), last.long(), grid.bins)
    return Grid(coarser, torch.where(coarser > grid.exponent, offset, grid.offset), grid.bins)


def union(
    exponent: Tensor, first: Tensor, last: Tensor, other: Tensor, a: Tensor, b: Tensor, bins: int
) -> Grid:
    """The finest common coarsening that holds the occupied cells ``[first, last)`` and ``[a, b)``.

    Defined by the union alone, so that merging is associative and commutative to the bit.
    """
    joint = torch.maximum(exponent, other)
    first, last = coarsen(first, last, joint - exponent)
    a, b = coarsen(a, b, joint - other)
    first, last = torch.minimum(first, a), torch.maximum(last, b)
    ratio = (last - first).double() / bins
    more = torch.ceil(torch.log2(ratio.clamp_min(1))).int()
    wide = coarsen(first, last, more)
    more = more + (wide[1] - wide[0] > bins).int()
    first, last = coarsen(first, last, more)
    return Grid(joint + more, _centred(first, last, bins), bins)


def coarsen(first: Tensor, last: Tensor, halvings: Tensor) -> tuple[Tensor, Tensor]:
    """The cell range that covers ``[first, last)`` on a grid ``2**halvings`` times as wide."""
    return first >> halvings, -((-last) >> halvings)


def _centred(first: Tensor, last: Tensor, bins: int) -> Tensor:
    """An offset that leaves the same room on both sides of ``[first, last)``."""
    return first - ((bins - (last - first)) >> 1)
