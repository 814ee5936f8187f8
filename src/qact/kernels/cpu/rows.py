"""One channel as one contiguous row: gathered, measured, and put into bins.

Loops are written so that they use vector instructions: no branch, unsigned indices, one reduction
of one kind at a time. What cannot be vectorised, a scattered addition, works on `CHUNK` values
whose bins have just been computed.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from qact.kernels.columns import ONE, PARTS
from qact.kernels.cpu.jit import jit
from qact.kernels.cpu.memory import seen_as

CHUNK = 1024
INFINITE = 0x7F800000
# A tensor (N, C, L) as float32, and as the bits of bfloat16, which it is if ``halves``.
Values = namedtuple("Values", "single half halves")


@jit
def fill(row, value):  # type: ignore[no-untyped-def]
    """``value`` everywhere; a slice on the left of ``=`` takes long to compile."""
    for i in range(row.size):
        row[i] = value


@jit
def copy(row, to):  # type: ignore[no-untyped-def]
    """The numbers of a row."""
    for i in range(row.size):
        to[i] = row[i]


@jit
def block(inner):  # type: ignore[no-untyped-def]
    """How many channels to gather at once: those that share a cache line."""
    return max(1, 16 // inner)


@jit
def unchanged(value):  # type: ignore[no-untyped-def]
    """A float32 as it is."""
    return value


@jit
def widened(half):  # type: ignore[no-untyped-def]
    """The bits of a bfloat16 as those of a float32."""
    return np.uint32(half) << np.uint32(16)


@jit
def narrowed(bits):  # type: ignore[no-untyped-def]
    """The bits of a float32 as those of the nearest bfloat16, ties to even."""
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = np.uint32(bits + odd + np.uint32(0x7FFF)) >> np.uint32(16)
    unknown = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(INFINITE)
    return np.uint16(np.uint32(0x7FC0) if unknown else rounded)


# Made for one conversion each: handed in, it would be compiled into every caller.


def _gathering(become: Any) -> Any:
    @jit
    def gather(z, first, channels, rows):  # type: ignore[no-untyped-def]
        outer, _, inner = z.shape
        if inner == 1:
            for n in range(outer):
                for c in range(channels):
                    rows[c, n] = become(z[n, first + c, 0])
        else:
            for c in range(channels):
                for n in range(outer):
                    at = n * inner
                    for i in range(inner):
                        rows[c, at + i] = become(z[n, first + c, i])

    return gather


def _scattering(become: Any) -> Any:
    @jit
    def scatter(rows, first, channels, out):  # type: ignore[no-untyped-def]
        outer, _, inner = out.shape
        if inner == 1:
            for n in range(outer):
                for c in range(channels):
                    out[n, first + c, 0] = become(rows[c, n])
        else:
            for c in range(channels):
                for n in range(outer):
                    at = n * inner
                    for i in range(inner):
                        out[n, first + c, i] = become(rows[c, at + i])

    return scatter


_gather_single, _gather_half = _gathering(unchanged), _gathering(widened)
_scatter_single, _scatter_half = _scattering(unchanged), _scattering(narrowed)


@jit
def gather(z, first, channels, rows):  # type: ignore[no-untyped-def]
    """Channels ``first ...`` of the `Values` (N, C, L) as rows of N L values."""
    if z.halves:
        _gather_half(z.half, first, channels, seen_as(rows, np.uint32))
    else:
        _gather_single(z.single, first, channels, rows)


@jit
def scatter(rows, first, channels, out):  # type: ignore[no-untyped-def]
    """The inverse of :func:`gather`."""
    if out.halves:
        _scatter_half(seen_as(rows, np.uint32), first, channels, out.half)
    else:
        _scatter_single(rows, first, channels, out.single)


@jit
def extent(row, ends):  # type: ignore[no-untyped-def]
    """Smallest and largest value into ``ends`` (2,), and whether all values are finite.

    The order of floating-point numbers is that of their bits, once those of negative ones are
    inverted; integers are compared many at a time.
    """
    bits, low, high = seen_as(row, np.int32), np.int32(0x7FFFFFFF), np.int32(-0x7FFFFFFF)
    for i in range(bits.size):
        b = bits[i]
        b = np.int32(b ^ ((b >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        low = min(low, b)
        high = max(high, b)
    target = seen_as(ends, np.int32)
    target[0] = low ^ ((low >> 31) & 0x7FFFFFFF)
    target[1] = high ^ ((high >> 31) & 0x7FFFFFFF)
    return low > ~INFINITE and high < INFINITE


@jit
def moments(row):  # type: ignore[no-untyped-def]
    """Mean and population variance: sums over chunks in float32, of chunks in float64."""
    total = 0.0
    for start in range(0, row.size, CHUNK):
        chunk, part = row[start : start + CHUNK], np.float32(0)
        for i in range(chunk.size):
            part += chunk[i]
        total += part
    mean = total / row.size
    centre, square, gaps = np.float32(mean), 0.0, 0.0
    for start in range(0, row.size, CHUNK):
        chunk, part, gap = row[start : start + CHUNK], np.float32(0), np.float32(0)
        for i in range(chunk.size):
            d = chunk[i] - centre
            part += d * d
            gap += d
        square += part
        gaps += gap
    if abs(total) < 1e38 and 1e-30 * row.size < square < 1e38:
        mean = centre + gaps / row.size
        return mean, max(square / row.size - (gaps / row.size) ** 2, 0.0)
    return _large_moments(row)


@jit
def _large_moments(row):  # type: ignore[no-untyped-def]
    """The same in float64, for squares beyond float32, or too small for it."""
    total = 0.0
    for i in range(row.size):
        total += np.float64(row[i])
    mean, square = total / row.size, 0.0
    for i in range(row.size):
        square += (np.float64(row[i]) - mean) ** 2
    return mean, square / row.size


@jit
def negatives(row):  # type: ignore[no-untyped-def]
    """How many values lie below zero."""
    count = np.int32(0)
    for i in range(row.size):
        count += np.int32(1) if row[i] < 0 else np.int32(0)
    return count


@jit
def shift(row, centre, scale):  # type: ignore[no-untyped-def]
    """``(row - centre) scale``, in place."""
    for i in range(row.size):
        row[i] = (row[i] - centre) * scale


@jit
def stretch(row, weight, bias):  # type: ignore[no-untyped-def]
    """``row weight + bias``, in place."""
    for i in range(row.size):
        row[i] = row[i] * weight + bias


@jit
def locate(chunk, inverse, offset, bins, cell, place):  # type: ignore[no-untyped-def]
    """Bin of each value, and its place inside in [0, 1]; beyond the grid, the outermost edges.

    Flooring before the shift keeps every sign: a tiny negative value stays below zero's edge.
    """
    low, high, first = np.float32(offset), np.float32(offset + bins), np.int32(offset)
    for i in range(chunk.size):
        scaled = chunk[i] * inverse
        scaled = scaled if scaled > low else low
        scaled = scaled if scaled < high else high
        floor = np.floor(scaled)
        place[i] = scaled - floor
        cell[i] = np.uint32(np.int32(floor) - first)


@jit
def count(row, inverse, offset, bins, hist, cell, place):  # type: ignore[no-untyped-def]
    """Counts and places of every bin, packed; the last entry holds what lies on the last edge."""
    fill(hist[: bins + 1], 0)
    for start in range(0, row.size, CHUNK):
        chunk = row[start : start + CHUNK]
        locate(chunk, inverse, offset, bins, cell, place)
        for i in range(chunk.size):
            hist[cell[i]] += ONE + np.int64(place[i] * PARTS + 0.5)


@jit
def interpolate(row, inverse, offset, bins, table, least, cell, place, out):  # type: ignore[no-untyped-def]
    """Interpolation in a table of ``bins + 2`` edge values, and at least ``least``."""
    for start in range(0, row.size, CHUNK):
        chunk, target = row[start : start + CHUNK], out[start : start + CHUNK]
        locate(chunk, inverse, offset, bins, cell, place)
        for i in range(target.size):
            k = cell[i]
            left = table[k]
            value = left + place[i] * (table[k + np.uint32(1)] - left)
            target[i] = value if value > least else least
