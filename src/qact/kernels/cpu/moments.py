"""Extent, mean and spread of channel ``c`` of (N, C, L), many values at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

CHUNK = 1024  # values whose sums are taken in any order, before they are added up in this one


def ordered(values: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """The bits of floating-point numbers as integers, and the ``sign`` and ``mask`` of their order.

    That is the order of ``b ^ ((b >> sign) & mask)``, with the bits of negative ones inverted:
    integers are compared many at a time, and what is not a number has a place too.
    """
    whole: Any = np.int32 if values.dtype == np.float32 else np.int64
    return values.view(whole), whole(np.iinfo(whole).bits - 1), whole(np.iinfo(whole).max)


@njit(nogil=True, cache=True)
def extent(bits, c, sign, mask):  # type: ignore[no-untyped-def]
    """The bits of the smallest and of the largest value; see :func:`ordered`."""
    whole = bits.dtype.type
    low, high = mask, whole(~mask)
    for n in range(bits.shape[0]):
        row = bits[n, c]
        for i in range(row.size):
            value = whole(row[i] ^ ((row[i] >> sign) & mask))
            low, high = min(low, value), max(high, value)
    return low ^ ((low >> sign) & mask), high ^ ((high >> sign) & mask)


@njit(nogil=True, cache=True)
def moments(z, c, largest):  # type: ignore[no-untyped-def]
    """Mean and population standard deviation of values up to ``largest`` in size, float64."""
    start = np.float64(z[0, c, 0])  # sums of gaps to a value: no digits cancel far from zero
    total, square, unit = 0.0, 0.0, 1.0
    for n in range(z.shape[0]):
        for i in range(0, z.shape[2], CHUNK):
            part = _sums(z[n, c, i : i + CHUNK], start)
            total += part[0]
            square += part[1]
    if largest > 0 and not 1e-280 < square < 1e280:  # squares of float64 that are no numbers
        unit, total, square = largest, 0.0, 0.0
        for n in range(z.shape[0]):
            for i in range(z.shape[2]):
                gap = z[n, c, i] / unit - start / unit
                total += gap
                square += gap * gap
    count = z.shape[0] * z.shape[2]
    mean = total / count
    return start + mean * unit, np.sqrt(max(square / count - mean * mean, 0.0)) * unit


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _sums(row, start):  # type: ignore[no-untyped-def]
    """Sums of the gaps to ``start``, and of their squares, in any order: as vectors."""
    total, square = 0.0, 0.0
    for i in range(row.size):
        gap = np.float64(row[i]) - start
        total += gap
        square += gap * gap
    return total, square
