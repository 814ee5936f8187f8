"""From a channel's bins to its ranks and its levels: a few hundred numbers, whatever its size."""

from __future__ import annotations

import math

import numpy as np

from qact.kernels.columns import (
    BANDWIDTH,
    BINS,
    COARSE,
    CONTINUOUS,
    COUNTS,
    FEW,
    FINENESS,
    KERNEL,
    MEAN,
    MOST,
    NEGATIVE,
    NORMAL,
    OFFSET,
    ONE,
    PARTS,
    REACH,
    RELU,
    SIDES,
    STD,
    TAPS,
    WIDTH,
)
from qact.kernels.cpu.gauss import convolve, normal_score, taps
from qact.kernels.cpu.jit import jit
from qact.kernels.cpu.rows import fill


@jit
def varies(mean, std):  # type: ignore[no-untyped-def]
    """Whether the spread of a channel is more than rounding; see `qact.rank.histogram.varied`."""
    return std > max(2.0**-23 * abs(mean), 2.0**-110)


@jit
def choose_grid(low, high, values, h, grounded, state):  # type: ignore[no-untyped-def]
    """The dyadic grid of a row: `FINENESS` bins per bandwidth, or as fine as `MOST` bins allow.

    Zero is on it wherever a continuous grounded rank has mass there.
    """
    mean, std, fineness = state[MEAN], state[STD], FINENESS if values >= FEW else COARSE
    low, high = max(low, mean - REACH * std), min(high, mean + REACH * std)
    if grounded == CONTINUOUS:
        low = min(low, 0.0) if low < KERNEL * h else low
        high = max(high, 0.0) if high > -KERNEL * h else high
    # No finer than float32 tells values apart, so that cells are exact integers of it.
    finest = max(max(abs(low), abs(high)) * 2.0**-22, 2.0**-119)
    # A constant channel has no bandwidth; one far beyond its rounding noise centres its rank.
    finest = finest if h > 0 else max(finest, 16 * std)
    _, exponent = math.frexp(max(h / fineness, finest))
    width = math.ldexp(1.0, exponent - 1)
    first, last = math.floor(low / width), math.floor(high / width)
    while last - first > MOST - 3:
        width *= 2
        first, last = math.floor(low / width), math.floor(high / width)
    # One bin more on either side: slopes are interpolated between the middles of bins.
    state[WIDTH], state[OFFSET], state[BINS] = width, first - 1, last - first + 3
    state[BANDWIDTH] = h if h > 1e-3 * width else 4 * width


@jit
def side_weights(state, values, grounded, sentinels):  # type: ignore[no-untyped-def]
    """Weight of one value below zero, of one above, and the mass at minus infinity."""
    if grounded != SIDES:
        return 1.0 / values, 1.0 / values, 0.0
    below = state[NEGATIVE]
    negative = 0.5 / max(below + sentinels, 1e-30)
    positive = 0.5 / max(values - below + sentinels, 1e-30)
    return negative, positive, 0.5 - (negative * below if below > 0 else 0.0)


@jit
def edge_masses(hist, state, negative, positive, edges, part):  # type: ignore[no-untyped-def]
    """The weight of every bin divided between its edges, with zeros on either side."""
    bins, pad = int(state[BINS]), TAPS + 2
    zero = min(max(-int(state[OFFSET]), 0), bins + 1)
    fill(edges[:pad], 0)
    fill(edges[pad + bins + 1 : bins + 2 * pad + 1], 0)
    own, right = edges[pad : pad + bins + 1], part[: bins + 1]
    # A value gives its place's share to the right edge, the rest to the left one.
    for k in range(own.size):
        weight = np.float32(negative) if k < zero else np.float32(positive)
        right[k] = np.float32(hist[k] & (ONE - 1)) * (weight * np.float32(1 / PARTS))
        own[k] = np.float32(hist[k] >> COUNTS) * weight - right[k]
    after = edges[pad + 1 : pad + bins + 2]
    for k in range(after.size):
        after[k] += right[k]


@jit
def ratio(state):  # type: ignore[no-untyped-def]
    """The bin width in bandwidths of the kernel on the grid.

    Dividing a value between two edges widens the kernel by
    ``width^2 / 6`` on average; so it starts narrower by that much.
    """
    h, width = state[BANDWIDTH], state[WIDTH]
    return width / math.sqrt(max(h * h - width * width / 6, 0.25 * h * h))


@jit
def ranks(edges, state, low, kernel, rise, rank, above):  # type: ignore[no-untyped-def]
    """The smooth rank at the edges and what is above them, each summed up from its own end.

    ``rise[k + 1]`` is the step across bin ``k``, for k = -1 ... bins.
    """
    bins, pad = int(state[BINS]), TAPS + 2
    reach = taps(ratio(state), kernel)
    convolve(edges, bins, kernel, reach, rise)
    # Ranks near one are differences of nearly equal numbers; summed up from above they keep their
    # digits, which normal scores of the upper tail need.
    total, rest, tail = low + 0.5 * edges[pad], 0.5 * edges[pad + bins], 0.5
    for j in range(1, min(reach, bins) + 1):
        tail = max(tail - kernel[j - 1], 0.0)
        total += edges[pad + j] * tail
        rest += edges[pad + bins - j] * tail
    rest += missing(edges, bins, low)
    rank[0], above[bins] = total, rest
    for k in range(bins):
        total += rise[k + 1]
        rest += rise[bins - k]
        rank[k + 1] = total
        above[bins - 1 - k] = rest


@jit
def side_slopes(state, values, sentinels):  # type: ignore[no-untyped-def]
    """``a`` of the continuous rank below and above zero; see `qact.rank.rule.side_slopes`."""
    below, least = state[NEGATIVE], 0.5 * values / (values + 1.0)
    negative = 0.5 * values / max(below + sentinels, least)
    return negative, 0.5 * values / max(values - below + sentinels, least)


@jit
def ground(values, sentinels, state, rise, rank, above):  # type: ignore[no-untyped-def]
    """``1/2 + a (G - q)`` at the edges, in place; ``q`` values count as negative from here on."""
    bins, zero = int(state[BINS]), -int(state[OFFSET])
    if 0 <= zero <= bins:
        state[NEGATIVE] = values * (rank[zero] if rank[zero] < 0.5 else 1 - above[zero])
    low, high = side_slopes(state, values, sentinels)
    share = state[NEGATIVE] / values
    bottom, top = 0.5 - low * share, 0.5 - high * (1 - share)
    for k in range(bins + 1):
        if k < zero:
            rank[k] = bottom + low * rank[k]
            above[k] = 1 - rank[k]
        else:
            above[k] = top + high * above[k]
            rank[k] = 1 - above[k]
    for k in range(-1, bins + 1):
        rise[k + 1] *= np.float32(low if k < zero else high)


@jit
def missing(edges, bins, low):  # type: ignore[no-untyped-def]
    """The mass at plus infinity: what the finite values leave of one."""
    total = np.float32(0)
    masses = edges[TAPS + 2 : TAPS + 3 + bins]
    for k in range(masses.size):
        total += masses[k]
    rest = 1.0 - low - total
    return rest if rest > 1e-5 else 0.0


@jit
def score_edges(rank, above, bins, values, tail, score):  # type: ignore[no-untyped-def]
    """``Phi^-1`` of the rank, from the nearer tail, kept ``1 / (32 (values + 1))`` inside."""
    # Phi^-1 is infinite at 0 and 1, where no score may be: no value is that far out among n.
    edge = np.float32(max(0.03125 / (values + 1), 2.0**-32))
    half, p = np.float32(0.5), tail[: bins + 1]
    for k in range(p.size):
        nearer = np.float32(min(rank[k], above[k]))
        nearer = nearer if nearer > edge else edge
        p[k] = nearer if nearer < half else half
    z = score[: bins + 1]
    normal_score(tail, z)
    for k in range(z.size):
        z[k] = -z[k] if rank[k] > 0.5 else z[k]


@jit
def level(kind, rank, above, bins, values, weight, bias, tail, score, table):  # type: ignore[no-untyped-def]
    """``weight * score + bias`` at every edge; one more repeats the last.

    A ReLU is left to the values: a table would smear its kink over a bin.
    """
    if kind in (NORMAL, RELU):
        score_edges(rank, above, bins, values, tail, score)
    else:
        for k in range(bins + 1):
            score[k] = rank[k]
    for k in range(bins + 1):
        table[k] = weight * score[k] + bias
    table[bins + 1] = table[bins]


@jit
def lowest(kind):  # type: ignore[no-untyped-def]
    """The value that a level never falls below."""
    return np.float32(0) if kind == RELU else np.float32(-np.inf)


@jit
def crossing(table, bins, offset, upright):  # type: ignore[no-untyped-def]
    """Where a level that rises (``upright``) or falls crosses zero, in bins; infinite if nowhere.

    What lies beyond it, or below it if the level falls, is above zero as `interpolate` has it.
    """
    low, high = 0, bins + 1
    while low < high:  # the first edge beyond
        middle = (low + high) >> 1
        if (table[middle] > 0) == upright:
            high = middle
        else:
            low = middle + 1
    if low == 0 or low == bins + 1:
        return np.float32(-np.inf if low == 0 else np.inf)
    return between(table[low - 1], table[low], offset + low - 1, upright)


@jit
def between(before, after, cell, upright):  # type: ignore[no-untyped-def]
    """Where the line across a bin crosses zero, in bins; ``after`` lies beyond, ``before`` not."""
    edge, one = np.float32(cell), np.float32(1)
    cut = edge + before / (before - after)
    # The edges are on the sides that the table says, however the sum is rounded.
    if upright:
        return min(cut, np.nextafter(edge + one, edge))
    return max(cut, np.nextafter(edge, edge + one))


@jit
def table_moments(kind, hist, table, bins, values):  # type: ignore[no-untyped-def]
    """Mean and variance over the row of what `interpolate` will give.

    Exact but for the spread of places within a bin, which is taken as that of evenly spread ones:
    an error below 1/8 of the squared rise across one bin.
    """
    least = lowest(kind)
    total, square, base = 0.0, 0.0, max(table[0], least)
    for k in range(bins + 1):
        if hist[k] != 0:
            n = np.float64(hist[k] >> COUNTS)
            place = np.float64(hist[k] & (ONE - 1)) / PARTS / n
            left, right = max(table[k], least), max(table[k + 1], least)
            rise = np.float64(right - left)
            # Around the first level, so that squares do not cancel.
            middle = (left - base) + place * rise
            total += n * middle
            square += n * middle * middle + max(n - 1, 0.0) * place * (1 - place) * rise * rise / 3
    mean = total / values
    return base + mean, max(square / values - mean * mean, 0.0)
