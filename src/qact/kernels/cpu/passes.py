"""The five passes of `qact.kernels.passes`, compiled by Numba: each reads the data once.

Channels are divided among torch's number of threads; within a channel values are added one after
the other, so results do not depend on the number of threads. Needs the extra ``qact[cpu]``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qact.kernels.passes import PARTS
from qact.rank.grid import Grid, power_of_two

# Below this many values a second thread costs more than it saves.
SERIAL = 32768
# So many values tell about where the extremes of all begin.
SAMPLE = 512


def statistics(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smallest, largest, mean and population standard deviation per channel, each (C,)."""
    out = np.empty((4, z.shape[1]), _numpy(z).dtype)
    _split(_statistics, z, _numpy(z), out)
    low, high, mean, std = torch.from_numpy(out)
    return low, high, mean, std


def count(z: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Mass and moment of every bin, (C, bins)."""
    mass = np.zeros((z.shape[1], grid.bins), _numpy(z).dtype)
    moment = np.zeros_like(mass)
    _split(_count, z, _numpy(z), *_scale(grid, z), mass, moment)
    return torch.from_numpy(mass), torch.from_numpy(moment)


def extremes(z: Tensor, k: int) -> Tensor:
    """The ``k`` smallest and the ``k`` largest values, sorted, (C, 2 k); filled up by inf."""
    out = np.empty((z.shape[1], 2 * k), _numpy(z).dtype)
    _split(_extremes, z, _numpy(z), out)
    return torch.from_numpy(out)


def interpolate(z: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """Linear interpolation of ``z`` in a table of edge values (C, bins + 1)."""
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    _split(_interpolate, z, _numpy(z), *_scale(grid, z), _numpy(table), _numpy(out))
    return out


def spread(z: Tensor, grad: Tensor, grid: Grid) -> Tensor:
    """The transpose of interpolation: each gradient divided between the edges of its bin."""
    table = np.zeros((z.shape[1], grid.bins + 1))
    _split(_spread, z, _numpy(z), *_scale(grid, z), _numpy(grad), table)
    return torch.from_numpy(table).to(grad.dtype)


def slope(z: Tensor, rise: Tensor, grid: Grid, sided: bool = False) -> Tensor:
    """The derivative at ``z``, from the rise across each bin (C, bins); zero outside the grid."""
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    slopes = _numpy((rise / grid.width(rise.dtype)[:, None]).contiguous())
    _split(_slope, z, _numpy(z), *_scale(grid, z), slopes, sided, _numpy(out))
    return out


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _scale(grid: Grid, like: Tensor) -> tuple[Any, Any]:
    """One over the bin width, in the dtype of the data, and the first edge in bins."""
    inverse = power_of_two(-grid.exponent, like.dtype)
    return _numpy(inverse), _numpy(grid.offset)


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="qact")


def _split(kernel: Callable[..., None], z: Tensor, *arguments: Any) -> None:
    """Run ``kernel(first, last, ...)`` over ranges of channels, side by side if there is work."""
    channels, threads = z.shape[1], torch.get_num_threads()
    if threads == 1 or z.numel() < SERIAL or channels == 1:
        kernel(0, channels, *arguments)
        return
    cuts = np.linspace(0, channels, min(threads, channels) + 1).astype(int).tolist()
    jobs = [_pool(threads).submit(kernel, *cut, *arguments) for cut in pairwise(cuts)]
    for job in jobs:
        job.result()


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
def _statistics(first, last, z, out):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    for c in range(first, last):
        start = np.float64(z[0, c, 0])
        low, high, total, square = z[0, c, 0], z[0, c, 0], 0.0, 0.0
        for n in range(outer):
            for i in range(inner):
                value = z[n, c, i]
                low, high = min(low, value), max(high, value)
                gap = np.float64(value) - start
                total += gap
                square += gap * gap
        unit, count = 1.0, outer * inner
        if low < high and not 1e-280 < square < 1e280:  # squares of float64 that are no numbers
            unit, total, square = max(abs(low), abs(high)), 0.0, 0.0
            for n in range(outer):
                for i in range(inner):
                    gap = z[n, c, i] / unit - start / unit
                    total += gap
                    square += gap * gap
        mean = total / count
        out[0, c], out[1, c] = low, high
        if not np.isfinite(total):
            out[0, c] = np.nan
        out[2, c] = start + mean * unit
        out[3, c] = np.sqrt(max(square / count - mean * mean, 0.0)) * unit


@njit(nogil=True, cache=True)
def _count(first, last, z, inverse, offset, mass, moment):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    bins = mass.shape[1]
    counts, parts = np.empty(bins, np.int64), np.empty(bins, np.int64)
    for c in range(first, last):
        counts[:] = 0
        parts[:] = 0
        for n in range(outer):
            for i in range(inner):
                cell, place, _ = _locate(z[n, c, i], inverse[c], offset[c], bins)
                counts[cell] += 1
                parts[cell] += int(np.rint(place * PARTS))
        for k in range(bins):
            mass[c, k] = counts[k]
            moment[c, k] = parts[k] / PARTS


@njit(nogil=True, cache=True)
def _extremes(first, last, z, out):  # type: ignore[no-untyped-def]
    """By a sample, whose ranks tell where to look: few values are sorted, as a rule."""
    outer, _, inner = z.shape
    n, k = outer * inner, out.shape[1] // 2
    row, rest = np.empty(n, z.dtype), np.empty(n, z.dtype)
    sample = min(n, SAMPLE)
    guess = int(k * sample / n + 4 * np.sqrt(k * sample / n)) + 2
    for c in range(first, last):
        at = 0
        for i in range(outer):
            row[at : at + inner] = z[i, c]
            at += inner
        out[c] = np.inf
        if n > 2 * k and 2 * guess < sample:
            few = row[:: n // sample][:sample].copy()
            few.sort()
            lowest = _beyond(row, few[guess], rest, out[c, :k])
            for i in range(n):
                row[i] = -row[i]
            if lowest and _beyond(row, -few[sample - 1 - guess], rest, out[c, k:]):
                out[c, k:] = -out[c, k:][::-1].copy()
                continue
            for i in range(n):
                row[i] = -row[i]
        row.sort()
        if n <= 2 * k:
            out[c, :n] = row
        else:
            out[c, :k], out[c, k:] = row[:k], row[n - k :]


@njit(nogil=True, cache=True)
def _beyond(row, bound, rest, out):  # type: ignore[no-untyped-def]
    """The smallest values, if enough do not exceed ``bound``; ties with it are not sorted."""
    less, equal = 0, 0
    for i in range(row.size):
        if row[i] <= bound:
            if row[i] < bound:
                rest[less] = row[i]
                less += 1
            else:
                equal += 1
    if less + equal < out.size:
        return False
    found = rest[:less]
    found.sort()
    taken = min(less, out.size)
    out[:taken] = found[:taken]
    out[taken:] = bound
    return True


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
                if value != value:
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
                toward = 1 if place > 0.5 else -1
                aside, zero = abs(place - 0.5), -offset[c]
                near = min(max(cell + toward, 0), bins - 1)
                if sided and (near < zero) != (cell < zero):
                    near, aside = min(max(cell - toward, 0), bins - 1), -aside
                    near = near if (near < zero) == (cell < zero) else cell
                here = slopes[c, cell]
                out[n, c, i] = here + aside * (slopes[c, near] - here)
