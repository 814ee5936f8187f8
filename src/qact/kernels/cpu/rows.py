"""One channel as one contiguous row: gathered, measured, and put into bins.

Loops are written so that they use vector instructions: no branch, unsigned indices, one reduction
of one kind at a time. What cannot be vectorised, a scattered addition, works on `CHUNK` values
whose bins have just been computed.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from qact.kernels.columns import ONE, PARTS
from qact.kernels.cpu.indexed import listed_pairs
from qact.kernels.cpu.jit import exact, jit
from qact.kernels.cpu.lanes import LANES, every, fence, fetch, larger, load, store, stream
from qact.kernels.cpu.memory import lined, seen_as

CHUNK = 1024
# So many channels, and values of them, are gathered at once.
NEIGHBOURS, ROOM = 4, 1 << 16
# From so many values on PyTorch's allocator maps memory afresh: no cache holds it.
FRESH = 1 << 23
# Values that are asked for before they are read: processors do not guess strides beyond a page.
FETCHED = 512
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
def padded(size):  # type: ignore[no-untyped-def]
    """So many numbers and as many more as fill the last vector: a row's memory."""
    return (size + LANES - 1) // LANES * LANES


@jit
def block(inner, values):  # type: ignore[no-untyped-def]
    """How many channels to gather at once: those that share a cache line, or some neighbours.

    A sample's channels lie in one page, those of two samples often in one set of a cache.
    """
    return max(16 // inner, min(NEIGHBOURS, ROOM // values), 1)


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
            ahead = max(FETCHED // (channels * inner), 1)
            for n in range(outer):
                at = n * inner
                for c in range(channels):
                    for i in range(0, inner, 16):
                        fetch(z, ((n + ahead) * z.shape[1] + first + c) * inner + i, 0)
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
            for n in range(outer):
                at = n * inner
                for c in range(channels):
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
    elif out.single.size >= FRESH and out.single.shape[2] % LANES == 0 and lined(out.single):
        _stream(rows, first, channels, out.single)
    else:
        _scatter_single(rows, first, channels, out.single)


@exact
def _stream(rows, first, channels, out):  # type: ignore[no-untyped-def]
    """Written past the caches: no line is read first, and none that is used makes room for it."""
    outer, _, inner = out.shape
    for n in range(outer):
        for c in range(channels):
            row, goal = rows[c], out[n, first + c]
            for i in range(0, inner, LANES):
                stream(goal, i, load(row, n * inner + i))
    fence()


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


# As it is written, so that a value falls into the same bin in both passes.


@exact
def standardise(row, mean, variance, eps):  # type: ignore[no-untyped-def]
    """``(row - mean) / sqrt(variance + eps)``, in place."""
    centre, scale = np.float32(mean), np.float32(1 / math.sqrt(variance + eps))
    for i in range(row.size):
        row[i] = (row[i] - centre) * scale


@exact
def stretch(row, weight, bias, out):  # type: ignore[no-untyped-def]
    """``row weight + bias``."""
    for i in range(row.size):
        out[i] = row[i] * weight + bias


@exact
def normalise(row, mean, variance, eps, weight, bias):  # type: ignore[no-untyped-def]
    """Both at once, in place: a norm."""
    centre, scale = np.float32(mean), np.float32(1 / math.sqrt(variance + eps))
    for i in range(row.size):
        row[i] = (row[i] - centre) * scale * weight + bias


@jit
def locate(chunk, inverse, offset, bins, cell, place):  # type: ignore[no-untyped-def]
    """Bin of each value, and its place inside in [0, 1]; beyond the grid, the outermost edges.

    Flooring before the shift keeps every sign: a tiny negative value stays below zero's edge. What
    the last vector holds beyond the chunk is in the first bin.
    """
    low, high, first = np.float32(offset), np.float32(offset + bins), np.int32(offset)
    for i in range(chunk.size):
        scaled = chunk[i] * inverse
        scaled = scaled if scaled > low else low
        scaled = scaled if scaled < high else high
        floor = np.floor(scaled)
        place[i] = scaled - floor
        cell[i] = np.uint32(np.int32(floor) - first)
    end = padded(chunk.size)
    fill(cell[chunk.size : end], 0)
    fill(place[chunk.size : end], 0)


@jit
def count(row, inverse, offset, bins, hist, cell, place, packed):  # type: ignore[no-untyped-def]
    """Counts and places of every bin, packed; the last entry holds what lies on the last edge."""
    fill(hist[: bins + 1], 0)
    parts, half = np.float32(PARTS), np.float32(0.5)
    for start in range(0, row.size, CHUNK):
        chunk = row[start : start + CHUNK]
        locate(chunk, inverse, offset, bins, cell, place)
        for i in range(chunk.size):
            packed[i] = ONE + np.int64(np.int32(place[i] * parts + half))
        for i in range(chunk.size):
            hist[cell[i]] += packed[i]


@exact
def interpolate(row, inverse, offset, bins, table, least, cell, place, out):  # type: ignore[no-untyped-def]
    """Interpolation in a table of ``bins + 2`` edge values, and at least ``least``."""
    bottom = every(least)
    for start in range(0, row.size, CHUNK):
        chunk, target = row[start : start + CHUNK], out[start : start + CHUNK]
        locate(chunk, inverse, offset, bins, cell, place)
        for i in range(0, chunk.size, LANES):
            left, right = listed_pairs(table, cell, i)
            store(target, i, larger(left + load(place, i) * (right - left), bottom))
