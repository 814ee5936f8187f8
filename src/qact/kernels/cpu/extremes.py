"""The extremes of each channel, and its moments: only what may be an extreme is looked at twice."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qact.kernels.cpu.moments import moments, ordered
from qact.kernels.cpu.pool import numbers, split

BLOCK = 64  # neighbours of which the smallest and the largest are found first


def extremes(z: Tensor, k: int) -> Tensor:
    """The ``k`` smallest and the ``k`` largest values, sorted, (C, 2 k); filled up by inf.

    ``z`` is (N, C, L), on a CPU, float32 or float64.
    """
    return described(z, k)[0]


def described(z: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`extremes`, with mean and population standard deviation (C,): data is read once."""
    values = numbers(z)
    far, out = np.empty((z.shape[1], 2 * k), values.dtype), np.empty((2, z.shape[1]), values.dtype)
    far[:] = np.inf
    bits, *order = ordered(values)
    split(_described, z.numel(), z.shape[1], values, bits, *order, far, far.view(bits.dtype), out)
    mean, std = torch.from_numpy(out)
    return torch.from_numpy(far), mean, std


@njit(nogil=True, cache=True)
def _described(first, last, z, bits, sign, mask, far, out, stats):  # type: ignore[no-untyped-def]
    outer, _, inner = z.shape
    n, k = outer * inner, out.shape[1] // 2
    row, best = np.empty(n, bits.dtype), np.empty(k, bits.dtype)
    lows = np.empty((n + BLOCK - 1) // BLOCK, bits.dtype)
    for c in range(first, last):
        for i in range(outer):
            part, goal = bits[i, c], row[i * inner : (i + 1) * inner]
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
        largest = max(abs(far[c, 0]), abs(far[c, min(n, 2 * k) - 1]))
        stats[0, c], stats[1, c] = moments(z, c, largest)


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
