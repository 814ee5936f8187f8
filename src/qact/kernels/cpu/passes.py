"""The five passes of `qact.kernels.passes`, compiled by Numba: each reads the data once.

Channels are divided among torch's number of threads; within a channel values are added one after
the other, so results do not depend on the number of threads. Needs the extra ``qact[cpu]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qact.kernels.columns import ONE, PLACES
from qact.kernels.cpu.extremes import described, extremes
from qact.kernels.cpu.moments import extent, moments, ordered
from qact.kernels.cpu.pool import numbers, split
from qact.rank.grid import Grid, power_of_two

__all__ = ["count", "described", "extremes", "interpolate", "slope", "spread", "statistics"]
CHUNK = 1024  # values whose bins are found before they are counted
FULL = 2**23  # values of which one integer holds counts and places, with room to spare


def statistics(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smallest, largest, mean and population standard deviation per channel, each (C,)."""
    values = numbers(z)
    out = np.empty((4, z.shape[1]), values.dtype)
    bits, *order = ordered(values)
    _split(_statistics, z, values, bits, *order, out, out.view(bits.dtype))
    low, high, mean, std = torch.from_numpy(out)
    return low, high, mean, std


def count(z: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Mass and moment of every bin, (C, bins)."""
    mass = np.zeros((z.shape[1], grid.bins), numbers(z).dtype)
    moment = np.zeros_like(mass)
    _split(_count, z, numbers(z), *_scale(grid, z), mass, moment)
    return torch.from_numpy(mass), torch.from_numpy(moment)


def interpolate(z: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """Linear interpolation of ``z`` in a table of edge values (C, bins + 1)."""
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    _split(_interpolate, z, numbers(z), *_scale(grid, z), numbers(table), numbers(out))
    return out


def spread(z: Tensor, grad: Tensor, grid: Grid) -> Tensor:
    """The transpose of interpolation: each gradient divided between the edges of its bin."""
    table = np.zeros((z.shape[1], grid.bins + 1))
    _split(_spread, z, numbers(z), *_scale(grid, z), numbers(grad), table)
    return torch.from_numpy(table).to(grad.dtype)


def slope(z: Tensor, rise: Tensor, grid: Grid, sided: bool = False) -> Tensor:
    """The derivative at ``z``, from the rise across each bin (C, bins); zero outside the grid."""
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    slopes = numbers((rise / grid.width(rise.dtype)[:, None]).contiguous())
    _split(_slope, z, numbers(z), *_scale(grid, z), slopes, sided, numbers(out))
    return out


def _scale(grid: Grid, like: Tensor) -> tuple[Any, Any]:
    """One over the bin width, in the dtype of the data, and the first edge in bins."""
    inverse = power_of_two(-grid.exponent, like.dtype)
    return numbers(inverse), numbers(grid.offset)


def _split(kernel: Callable[..., None], z: Tensor, *arguments: Any) -> None:
    split(kernel, z.numel(), z.shape[1], *arguments)


@njit(nogil=True, cache=True, inline="always")
def _locate(value, inverse, offset, bins):  # type: ignore[no-untyped-def]
    """Bin, place inside and whether the grid holds it; see `qact.kernels.passes.locate`."""
    scaled = value * inverse
    floor = np.floor(scaled)
    if not abs(floor) < 2.0**62:
        return (bins - 1, 1.0, False) if scaled > 0 else (0, 0.0, False)
    cell = int(floor) - offset
    if cell < 0:
        return 0, 0.0, False
    if cell >= bins:
        return bins - 1, 1.0, False
    return cell, float(scaled - floor), True


@njit(nogil=True, cache=True)
def _statistics(first, last, z, bits, sign, mask, out, ends):  # type: ignore[no-untyped-def]
    for c in range(first, last):
        ends[0, c], ends[1, c] = extent(bits, c, sign, mask)
        out[2, c], out[3, c] = moments(z, c, max(abs(out[0, c]), abs(out[1, c])))
        if not np.isfinite(out[2, c]):
            out[0, c] = np.nan


@njit(nogil=True, cache=True)
def _count(first, last, z, inverse, offset, mass, moment):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    bins, unit = mass.shape[1], z.dtype.type(PLACES)
    hist, sums = np.empty(bins + 1, np.int64), np.empty((2, bins), np.int64)
    cell, place = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.int32)
    for c in range(first, last):
        low, high = z.dtype.type(offset[c]), z.dtype.type(offset[c] + bins)
        hist[:], sums[:], since = 0, 0, 0
        for n in range(outer):
            for start in range(0, inner, CHUNK):
                chunk = z[n, c, start : start + CHUNK]
                _place(chunk, inverse[c], low, high, unit, cell, place)
                for i in range(chunk.size):
                    hist[cell[i]] += place[i] + ONE
                since += chunk.size
                if since >= FULL:
                    _unpack(hist, sums)
                    since = 0
        _unpack(hist, sums)
        for k in range(bins):
            mass[c, k], moment[c, k] = sums[0, k], sums[1, k] / PLACES


@njit(nogil=True, cache=True)
def _place(chunk, inverse, low, high, unit, cell, place):  # type: ignore[no-untyped-def]
    """Bin and place of each value, of which PARTS are a bin: without a branch, many at a time."""
    for i in range(chunk.size):
        scaled = chunk[i] * inverse
        scaled = scaled if scaled > low else low
        scaled = scaled if scaled < high else high
        # Flooring before the shift keeps every sign: a tiny negative value stays below zero's edge.
        floor = np.floor(scaled)
        cell[i] = np.int32(floor - low)
        place[i] = np.int32(np.rint((scaled - floor) * unit))


@njit(nogil=True, cache=True)
def _unpack(hist, sums):  # type: ignore[no-untyped-def]
    """Add counts and places to their ``sums``; what lies on the last edge is of the last bin."""
    bins = sums.shape[1]
    hist[bins - 1] += hist[bins] + PLACES * (hist[bins] // ONE)
    for k in range(bins):
        sums[0, k] += hist[k] // ONE
        sums[1, k] += hist[k] % ONE
    hist[:] = 0


@njit(nogil=True, cache=True)
def _interpolate(first, last, z, inverse, offset, table, out):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    bins = table.shape[1] - 1
    for n in range(outer):
        for c in range(first, last):
            for i in range(inner):
                value = z[n, c, i]
                cell, place, _ = _locate(value, inverse[c], offset[c], bins)
                left = table[c, cell]
                out[n, c, i] = left + place * (table[c, cell + 1] - left)
                if value != value:  # what is not a number stays so
                    out[n, c, i] = value


@njit(nogil=True, cache=True)
def _spread(first, last, z, inverse, offset, grad, table):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    bins = table.shape[1] - 1
    for n in range(outer):
        for c in range(first, last):
            for i in range(inner):
                cell, place, _ = _locate(z[n, c, i], inverse[c], offset[c], bins)
                right = grad[n, c, i] * place
                table[c, cell] += grad[n, c, i] - right
                table[c, cell + 1] += right


@njit(nogil=True, cache=True)
def _slope(first, last, z, inverse, offset, slopes, sided, out):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    bins = slopes.shape[1]
    for n in range(outer):
        for c in range(first, last):
            for i in range(inner):
                cell, place, inside = _locate(z[n, c, i], inverse[c], offset[c], bins)
                if not inside:
                    out[n, c, i] = 0
                    continue
                # Between the middles of two bins; at zero the line of one side goes on.
                toward = 1 if place > 0.5 else -1
                aside, zero = abs(place - 0.5), -offset[c]
                near = min(max(cell + toward, 0), bins - 1)
                if sided and (near < zero) != (cell < zero):
                    near, aside = min(max(cell - toward, 0), bins - 1), -aside
                    near = near if (near < zero) == (cell < zero) else cell
                here = slopes[c, cell]
                out[n, c, i] = here + aside * (slopes[c, near] - here)
