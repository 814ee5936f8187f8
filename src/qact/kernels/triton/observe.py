"""What a channel says of itself: statistics, norm and grid; and its values in their bins."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.bins import EXACT, blank, put, tally
from qact.kernels.triton.constants import (
    AVERAGE,
    BANDWIDTH,
    BINS,
    COARSE,
    CONTINUOUS,
    COUNT,
    COUNTS,
    FEW,
    FINENESS,
    FINITE,
    HIGH,
    IN_MEAN,
    IN_VAR,
    KERNEL,
    LOW,
    MEAN,
    OFFSET,
    PARTIAL,
    PARTS,
    REACH,
    SOUND,
    SQUARE,
    STATE,
    STD,
    WIDTH,
)
from qact.kernels.triton.tiles import given, lanes, largest, leading, single, tile, total, wide


@triton.jit
def measure(
    z, c, exists, first, last, C, L, n, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr
):
    """Of tiles ``first ... last``: count, mean, sum of squared gaps, ends, whether all are finite.

    Every place of a tile keeps its own mean and squares over the tiles (Welford 1962), in float32
    and counted from the channel's first value, so that little cancels; they join once at the end
    (Chan, Golub and LeVeque 1979). Squares of values far from one leave float32: then all is read
    once more in units of a power of two.
    """
    pivot = tl.load(z + c.to(tl.int64) * L, mask=exists, other=0.0).to(tl.float32)
    pivot = tl.where(tl.abs(pivot) < float("inf"), pivot, 0.0)
    zero = lanes(ROWS, V, K)
    mean, square, low, high = zero, zero, zero, zero
    unit, again = pivot * 0.0 + 1.0, 1
    while again > 0:
        mean, square, begin = zero, zero, pivot * unit
        low, high = zero + float("inf"), zero - float("inf")
        for t in range(first, last):
            offset, _, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
            x = tl.load(z + offset, mask=mask, other=0.0).to(tl.float32)
            low = tl.minimum(low, tl.where(mask, x, float("inf")))
            high = tl.maximum(high, tl.where(mask, x, -float("inf")))
            # Only the last tile has holes, so the tiles count the values of each place.
            gap = tl.where(mask, x * unit - begin - mean, 0.0)
            step = gap * (1.0 / (t - first + 1))
            mean += step
            square += gap * (gap - step)
        width = 0.5 * largest(high, K) + 0.5 * largest(-low, K)
        odd = (unit == 1.0) & (width > 0) & (width < float("inf"))
        odd = odd & ((width > 2.0**50) | (width < 2.0**-50))
        unit = tl.where(odd, 1.0 / tl.maximum(leading(width), 2.0**-120), unit)
        again = tl.max(odd.to(tl.int32), 0) if K > 1 else odd.to(tl.int32)
    _, _, mask = tile(last - 1, c, exists, C, L, n, ROWS, V, K)
    count = mask.to(tl.float32) + (last - 1 - first)
    number = total(count, K)
    centre = total(count * mean, K) / tl.maximum(number, 1.0)
    # What is not finite leaves a mean that is not.
    finite = 1 - largest((tl.abs(mean) < float("inf")).to(tl.int32) ^ 1, K)
    gap = mean - centre
    square = total(square + count * gap * gap, K).to(tl.float64)
    wide_unit = unit.to(tl.float64)
    centre = pivot.to(tl.float64) + centre.to(tl.float64) / wide_unit
    square = square / (wide_unit * wide_unit)
    return number.to(tl.float64), centre, square, -largest(-low, K), largest(high, K), finite


@triton.jit
def hand_on(parts, s, c, exists, C, count, mean, square, low, high, finite):
    """The statistics of one program, for all programs of the next launch."""
    at = parts + s * PARTIAL * C + c
    tl.store(at + COUNT * C, count, mask=exists)
    tl.store(at + AVERAGE * C, mean, mask=exists)
    tl.store(at + SQUARE * C, square, mask=exists)
    tl.store(at + LOW * C, low.to(tl.float64), mask=exists)
    tl.store(at + HIGH * C, high.to(tl.float64), mask=exists)
    tl.store(at + SOUND * C, finite.to(tl.float64), mask=exists)


@triton.jit
def _part(parts, c, C, column: tl.constexpr, S, SPLITS: tl.constexpr, other: tl.constexpr):
    s = tl.arange(0, SPLITS)[:, None]
    channels = c + tl.zeros([1, 1], tl.int32)
    at = parts + (s * PARTIAL + column) * C + channels
    return tl.load(at, mask=(s < S) & (channels < C), other=other)


@triton.jit
def gather(parts, c, C, n, S, SPLITS: tl.constexpr, K: tl.constexpr):
    """The statistics of all programs together, summed up in one order."""
    infinity = float("inf")
    count = _part(parts, c, C, COUNT, S, SPLITS, 0.0)
    mean = _part(parts, c, C, AVERAGE, S, SPLITS, 0.0)
    centre = total(count * mean, K) / n
    step = mean - centre
    square = total(_part(parts, c, C, SQUARE, S, SPLITS, 0.0) + count * step * step, K)
    low = -largest(-_part(parts, c, C, LOW, S, SPLITS, infinity), K)
    high = largest(_part(parts, c, C, HIGH, S, SPLITS, -infinity), K)
    finite = -largest(-_part(parts, c, C, SOUND, S, SPLITS, 1.0), K)
    return centre, square, low.to(tl.float32), high.to(tl.float32), finite.to(tl.int32)


@triton.jit
def normed(x, in_mean, in_scale, weight, bias, NORM: tl.constexpr):
    """The values after the first norm, and before its scale and shift."""
    score = x
    if NORM:
        score = (x - in_mean) * in_scale
        x = score * weight + bias
    return x, score


@triton.jit
def in_norm(state, c, exists, weight, bias, eps, NORM: tl.constexpr):
    """Mean, ``1 / sqrt(variance + eps)``, scale and shift of the first norm, in float32."""
    at = state + c * STATE
    if NORM:
        mean = single(tl.load(at + IN_MEAN, mask=exists, other=0.0))
        scale = single(1 / tl.sqrt(tl.load(at + IN_VAR, mask=exists, other=1.0) + eps))
    else:
        mean = single(wide(c))
        scale = single(wide(c))
    return mean, scale, given(weight, c, exists, 1.0), given(bias, c, exists, 0.0)


@triton.jit
def settle(
    state, c, exists, mean, square, low, high, finite, weight, bias, eps, absolute, factor, n,
    NORM: tl.constexpr, GROUNDED: tl.constexpr, RELATIVE: tl.constexpr, LIMIT: tl.constexpr,
    K: tl.constexpr,
):  # fmt: skip
    """Norm, spread and grid of a channel, written into ``state``: see `qact.kernels.columns`."""
    w, b = given(weight, c, exists, 1.0), given(bias, c, exists, 0.0)
    finite = finite > 0
    if NORM:  # one that is not finite spoils its channel as values do: no grid would hold them
        finite = finite & (tl.abs(w) < float("inf")) & (tl.abs(b) < float("inf"))
        w, b = tl.where(finite, w, 1.0), tl.where(finite, b, 0.0)
    variance = tl.where(finite, tl.maximum(square / n, 0.0), 0.0)
    mean = tl.where(finite, mean, 0.0)
    low, high = tl.where(finite, low, 0.0), tl.where(finite, high, 0.0)
    at = state + c * STATE
    std = tl.sqrt(variance)
    tl.store(at + FINITE, finite.to(tl.float64), mask=exists)
    if NORM:
        tl.store(at + IN_MEAN, mean, mask=exists)
        tl.store(at + IN_VAR, variance, mask=exists)
        scale = 1 / tl.sqrt(variance + eps)
        left, _ = normed(low, single(mean), single(scale), w, b, NORM)
        right, _ = normed(high, single(mean), single(scale), w, b, NORM)
        low, high = tl.minimum(left, right), tl.maximum(left, right)
        mean, std = b.to(tl.float64), tl.abs(w).to(tl.float64) * scale * std
    h = wide(c) + absolute
    if RELATIVE:
        h = tl.where(varies(mean, std), h + factor * std, 0.0)
    low, high = low.to(tl.float64), high.to(tl.float64)
    width, offset, bins = grid(low, high, mean, std, h, n, GROUNDED, LIMIT, K)
    tl.store(at + MEAN, mean, mask=exists)
    tl.store(at + STD, std, mask=exists)
    tl.store(at + WIDTH, width, mask=exists)
    tl.store(at + OFFSET, offset, mask=exists)
    tl.store(at + BINS, bins, mask=exists)
    tl.store(at + BANDWIDTH, tl.where(h > 1e-3 * width, h, 4 * width), mask=exists)


@triton.jit
def varies(mean, std):
    """Whether the spread of a channel is more than rounding; see `qact.rank.histogram.varied`."""
    return std > tl.maximum(2.0**-23 * tl.abs(mean), 2.0**-110)


@triton.jit
def grid(low, high, mean, std, h, n, GROUNDED: tl.constexpr, LIMIT: tl.constexpr, K: tl.constexpr):
    """The dyadic grid: `FINENESS` bins per bandwidth, or as fine as ``LIMIT`` bins allow.

    The largest power of two below a number is the number without its mantissa.
    """
    low, high = tl.maximum(low, mean - std * REACH), tl.minimum(high, mean + std * REACH)
    if GROUNDED == CONTINUOUS:
        low = tl.where(low < KERNEL * h, tl.minimum(low, 0.0), low)
        high = tl.where(high > -KERNEL * h, tl.maximum(high, 0.0), high)
    finest = tl.maximum(tl.maximum(tl.abs(low), tl.abs(high)) * 2.0**-22, 2.0**-119)
    # A constant channel has no bandwidth; one far beyond its rounding noise centres its rank.
    finest = tl.where(h > 0, finest, tl.maximum(finest, 16 * std))
    fineness = FINENESS if n >= FEW else COARSE
    bits = tl.maximum(h / fineness, finest).to(tl.int64, bitcast=True)
    width = (bits & 0x7FF0000000000000).to(tl.float64, bitcast=True)
    cells = tl.floor(high / width) - tl.floor(low / width)
    while (tl.max(cells, 0) if K > 1 else cells) > LIMIT - 3:
        width = tl.where(cells > LIMIT - 3, width * 2, width)
        cells = tl.floor(high / width) - tl.floor(low / width)
    # One bin more on either side: slopes are interpolated between the middles of bins.
    return width, tl.floor(low / width) - 1, cells + 3


@triton.jit
def axis(state, c, exists):
    """One over the bin width in float32, first bin and number of bins."""
    at = state + c * STATE
    width = tl.load(at + WIDTH, mask=exists, other=1.0)
    offset = tl.load(at + OFFSET, mask=exists, other=0.0)
    bins = tl.load(at + BINS, mask=exists, other=1.0)
    return single(1 / width), offset.to(tl.int32), bins.to(tl.int32)


@triton.jit
def sound(state, c, exists):
    """Whether all values of a channel are finite, (1,) or (K,): ready to be spread over a tile."""
    return (
        tl.load(state + c * STATE + FINITE, mask=exists, other=0.0) + tl.zeros([1], tl.float64) > 0
    )


@triton.jit
def locate(y, inverse, offset, bins):
    """Bin of each value, and its place inside in [0, 1]; beyond the grid, the outermost edges.

    Flooring before the shift keeps every sign: a tiny negative value stays below zero's edge.
    """
    scaled = tl.maximum(y * inverse, offset.to(tl.float32))
    scaled = tl.minimum(scaled, (offset + bins).to(tl.float32))
    floor = tl.floor(scaled)
    return floor.to(tl.int32) - offset, scaled - floor


@triton.jit
def count(
    z, hist, state, c, exists, first, last, weight, bias, eps, C, L, n,
    NORM: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Counts and places of every bin, packed; the last column counts the values below zero."""
    in_mean, in_scale, w, b = in_norm(state, c, exists, weight, bias, eps, NORM)
    inverse, offset, bins = axis(state, c, exists)
    finite, row = sound(state, c, exists), hist + c.to(tl.int64) * BLOCK
    below = lanes(ROWS, V, K).to(tl.int32)
    flush: tl.constexpr = EXACT // (ROWS * V)
    # Rarely more than once: a channel with long tails is read once for every SPAN of its bins.
    for base in range(0, (tl.max(bins, 0) if K > 1 else bins) + 1, SPAN):
        packed, below = blank(K, SPAN, tl.int32, HISTOGRAM).to(tl.int64), below * 0
        for start in range(first, last, flush):
            number = blank(K, SPAN, tl.int32, HISTOGRAM)
            places = blank(K, SPAN, tl.int32, HISTOGRAM)
            for t in range(start, tl.minimum(start + flush, last)):
                place, _, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
                x = tl.load(z + place, mask=mask, other=0.0).to(tl.float32)
                y, _ = normed(x, in_mean, in_scale, w, b, NORM)
                mask = mask & finite
                cell, part = locate(y, inverse, offset, bins)
                part = tl.floor(part * PARTS + 0.5)
                number, places = tally(number, places, cell - base, part, mask, K, SPAN, HISTOGRAM)
                below += (mask & (y < 0)).to(tl.int32)
            packed += (number.to(tl.int64) << COUNTS) + places.to(tl.int64)
        put(row, base, bins, exists, packed, K, SPAN)
    tl.store(row + BLOCK - 1, total(below, K).to(tl.int64), mask=exists)
