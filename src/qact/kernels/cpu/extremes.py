"""The extremes of each channel, compiled: only what may be one is looked at twice."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qact.kernels.cpu.pool import numbers, split

BLOCK = 64  # neighbours of which the smallest and the largest are found first


def extremes(z: Tensor, k: int) -> Tensor:
    """The ``k`` smallest and the ``k`` largest values, sorted, (C, 2 k); filled up by inf.

    ``z`` is (N, C, L), on a CPU, float32 or float64.
    """
    values = numbers(z)
    # The order of floating-point numbers is that of their bits, once those of negative ones are
    # inverted: integers are compared many at a time, and what is not a number has a place too.
    whole = np.int32 if values.dtype == np.float32 else np.int64
    out = np.empty((z.shape[1], 2 * k), values.dtype)
    out[:] = np.inf
    bits = whole(np.iinfo(whole).bits - 1), whole(np.iinfo(whole).max)
    split(_extremes, z.numel(), z.shape[1], values.view(whole), *bits, out.view(whole))
    return torch.from_numpy(out)


@njit(nogil=True, cache=True)
def _extremes(first, last, z, sign, mask, out):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    n, k = outer * inner, out.shape[1] // 2
    row, best = np.empty(n, z.dtype), np.empty(k, z.dtype)
    lows = np.empty((n + BLOCK - 1) // BLOCK, z.dtype)
    for c in range(first, last):
        for i in range(outer):
            part, goal = z[i, c], row[i * inner : (i + 1) * inner]
            for j in range(inner):
                goal[j] = part[j] ^ ((part[j] >> sign) & mask)
        if n <= 2 * k:
            row.sort()
            out[c, :n] = row
        else:
            _smallest(row, lows, best)
            out[c, :k] = best
            for i in range(n):  # the order turned round
                row[i] = ~row[i]
            _smallest(row, lows, best)
            out[c, k:] = ~best[::-1]
        for i in range(min(n, 2 * k)):
            out[c, i] ^= (out[c, i] >> sign) & mask


@njit(nogil=True, cache=True)
def _smallest(row, lows, best):  # type: ignore[no-untyped-def]
    """The smallest values of a row, sorted.

    The k-th smallest of the blocks' minima bounds them: k blocks hold a value as small. So all but
    about k blocks are passed over, and a row of ties is gone through once.
    """
    top = np.iinfo(row.dtype).max
    for b in range(lows.size):
        part, low = row[b * BLOCK : (b + 1) * BLOCK], row[b * BLOCK]
        for i in range(part.size):
            low = min(low, part[i])
        lows[b] = low
    best[:] = top
    for b in range(lows.size):
        if lows[b] < best[-1]:
            _insert(best, lows[b])
    bound = best[-1]
    best[:] = top
    for b in range(lows.size):
        if lows[b] <= bound and lows[b] < best[-1]:
            part = row[b * BLOCK : (b + 1) * BLOCK]
            for i in range(part.size):
                if part[i] <= bound and part[i] < best[-1]:
                    _insert(best, part[i])


@njit(nogil=True, cache=True, inline="always")
def _insert(best, value):  # type: ignore[no-untyped-def]
    """Put a value in its place; the largest falls out."""
    i = best.size - 1
    while i > 0 and best[i - 1] > value:
        best[i] = best[i - 1]
        i -= 1
    best[i] = value
