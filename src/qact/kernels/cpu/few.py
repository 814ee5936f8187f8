"""Channels of few values: sixteen side by side, one in each lane of a vector.

Where a channel has a hundred values its tables cost more than its data, and loops over one channel
are too short for vectors. Here every number of a channel, value, bin or tap, is one of sixteen that
stand in a row of memory, and each step of `qact.kernels.cpu.table` is done for all of them at once.
What one channel alone needs, a grid and the move of its running context, is done as ever.

A channel that asks for more care (not finite, constant, squares beyond float32, a long tail, a
weight of zero) is left to `qact.kernels.cpu.forward` and `backward`; `ABREAST` says which were not.
None depends, in any digit, on those beside it. Here is what both passes share.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from qact.kernels.columns import (
    BINS,
    IN_MEAN,
    IN_VAR,
    KERNEL,
    NEGATIVE,
    OFFSET,
    OUT_MEAN,
    PARTS,
    TAPS,
    UNIFORM,
    WIDTH,
)
from qact.kernels.cpu.gauss import LOWEST, PHI, SCORE, STEP
from qact.kernels.cpu.indexed import add_ints, store_pairs
from qact.kernels.cpu.jit import exact, owning
from qact.kernels.cpu.lanes import (
    LANES,
    below,
    bits,
    chosen,
    every,
    fetch,
    floor,
    gathered,
    larger,
    load,
    number,
    pattern,
    place_of,
    repeat,
    smaller,
    store,
    whole,
)
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.rows import fill
from qact.kernels.cpu.table import ratio, side_weights

# So many values and bins at most. A bin's count and the sum of its places share one int32.
VALUES, LIMIT, COUNTS = 512, 508, 18
ROWS, PAD = LIMIT + 4, TAPS + 2
# Numbers of a channel, one row of sixteen each.
(CENTRE, SCALE, SLOPE, SHIFT, INVERSE, LOW, HIGH, ZERO, UNDER, OVER, BOTTOM, RATIO) = range(
    0, 12 * LANES, LANES
)
(WEIGHT, BIAS, TOTAL, LEAST, GREATEST, BAD, SQUARE, GAPS, NEGATIVES, ABOVE, CUT, TOWARDS) = range(
    12 * LANES, 24 * LANES, LANES
)
ALONG, PULL, MIDDLE, NUMBERS = range(24 * LANES, 28 * LANES, LANES)
_PHI = PHI.astype(np.float32)
Few = namedtuple("Few", "own x at place hist edges kernel rise rank table pairs")
# Of a channel whose tables are kept: 1 + its lane. No norm stands behind, whose mean it would be.
KEPT = OUT_MEAN


@owning
def scratch(n):  # type: ignore[no-untyped-def]
    """Memory for one thread, used for sixteen channels after the other."""
    values, rows = n * LANES, ROWS * LANES
    edges = lines(rows + 2 * PAD * LANES)
    fill(edges, 0)
    return Few(
        lines(NUMBERS), lines(values), lines(values), lines(values), lines(rows), edges,
        lines(PAD * LANES), lines(rows), lines(rows), lines(rows), lines(4 * rows),
    )  # fmt: skip


@owning
def lines(size):  # type: ignore[no-untyped-def]
    """Memory that begins where a cache line does: a row across two of them takes twice as long."""
    memory = empty(size + LANES, np.float32)
    start = -(memory.ctypes.data // 4) % LANES
    return memory[start : start + size]


@exact
def read(z, first, channels, x):  # type: ignore[no-untyped-def]
    """Values of sixteen channels as rows; lanes without a channel hold zeros."""
    if channels == LANES:
        for n in range(z.shape[0]):
            fetch(z[n], first + LANES, 0)
            store(x, LANES * n, load(z[n], first))
        return
    fill(x, 0)
    for n in range(z.shape[0]):
        for j in range(channels):
            x[LANES * n + j] = z[n, first + j]


@exact
def fetch_rows(z, first):  # type: ignore[no-untyped-def]
    """Have rows brought near that are to be written."""
    for n in range(z.shape[0]):
        fetch(z[n], first, 1)


@exact
def write(value, first, channels, aside, row):  # type: ignore[no-untyped-def]
    """One value of each of sixteen channels."""
    if channels == LANES:
        store(row, first, value)
    else:
        store(aside, 0, value)
        for j in range(channels):
            row[first + j] = aside[j]


@exact
def set_norm(j, c, affine, eps, state, own):  # type: ignore[no-untyped-def]
    """The norm before, if there is one: ``(x - centre) scale slope + shift``."""
    normed = eps[0] >= 0
    own[CENTRE + j] = np.float32(state[IN_MEAN]) if normed else np.float32(0)
    own[SCALE + j] = np.float32(1 / math.sqrt(state[IN_VAR] + eps[0]) if normed else 1.0)
    own[SLOPE + j] = affine.in_weight[c] if normed else np.float32(1)
    own[SHIFT + j] = affine.in_bias[c] if normed else np.float32(0)


@exact
def set_grid(j, c, affine, state, own):  # type: ignore[no-untyped-def]
    """Its grid, its kernel, and the affine of its score."""
    own[INVERSE + j] = 1 / state[WIDTH]
    own[LOW + j], own[HIGH + j] = state[OFFSET], state[OFFSET] + state[BINS]
    own[ZERO + j] = -state[OFFSET]
    own[RATIO + j] = ratio(state)
    own[WEIGHT + j], own[BIAS + j] = affine.weight[c], affine.bias[c]


@exact
def set_blank(j, own):  # type: ignore[no-untyped-def]
    """A lane that is not used: all of its values fall on the first edge."""
    for k in range(j, own.size, LANES):
        own[k] = 0
    own[RATIO + j], own[WEIGHT + j] = 1, 1


@exact
def set_weights(j, state, n, rule, own):  # type: ignore[no-untyped-def]
    """The weight of a value on each side of zero, and the mass at minus infinity."""
    state[NEGATIVE] = own[NEGATIVES + j]
    own[UNDER + j], own[OVER + j], own[BOTTOM + j] = side_weights(
        state, n, rule.grounded, rule.sentinels
    )


@exact
def locate(value, own):  # type: ignore[no-untyped-def]
    """Bin and place inside, see `qact.kernels.cpu.rows.locate`."""
    low = load(own, LOW)
    scaled = smaller(larger(value * load(own, INVERSE), low), load(own, HIGH))
    edge = floor(scaled)
    return place_of(whole(edge - low)), scaled - edge


@exact
def count(bins, few):  # type: ignore[no-untyped-def]
    """Bin of every value, and what each bin holds: how many, and the sum of their places."""
    own, zero, one = few.own, every(0), every(1)
    parts, half = every(PARTS), every(0.5)
    centre, scale = load(own, CENTRE), load(own, SCALE)
    slope, shift = load(own, SLOPE), load(own, SHIFT)
    negative, single = zero, repeat(np.int32(1 << COUNTS))
    fill(few.hist[: LANES * (bins + 1)], 0)
    for i in range(0, few.x.size, LANES):
        value = (load(few.x, i) - centre) * scale * slope + shift
        negative += chosen(below(value, zero), one, zero)
        at, place = locate(value, own)
        store(few.at, i, pattern(at))
        store(few.place, i, place)
    for i in range(0, few.x.size, LANES):  # indices from memory go straight to where they are used
        more = single + whole(load(few.place, i) * parts + half)
        add_ints(few.hist, bits(load(few.at, i)), more)
    store(own, NEGATIVES, negative)


@exact
def tabulate(bins, n, kind, few):  # type: ignore[no-untyped-def]
    """Ranks and levels at the edges, from the bins."""
    total = _edges(bins, few)
    reach = taps(few.own, few.kernel)
    convolve(few.edges, bins, few.kernel, reach, few.rise)
    _ranks(bins, reach, total, few)
    _levels(bins, n, kind, few)


@exact
def _edges(bins, few):  # type: ignore[no-untyped-def]
    """The weight of every bin divided between its edges; returns all of it."""
    own, edges, shift = few.own, few.edges, repeat(np.int32(COUNTS))
    low, part = repeat(np.int32((1 << COUNTS) - 1)), every(1 / PARTS)
    under, over, zero = load(own, UNDER), load(own, OVER), load(own, ZERO)
    right = total = every(0)
    for k in range(bins + 1):
        packed = bits(load(few.hist, LANES * k))
        weight = chosen(below(every(k), zero), under, over)
        carried, right = right, number(packed & low) * part * weight
        mass = number(packed >> shift) * weight - right + carried
        store(edges, LANES * (PAD + k), mass)
        total += mass
    fill(edges[LANES * (PAD + bins + 1) : LANES * (2 * PAD + bins + 1)], 0)
    return total


@exact
def taps(own, kernel):  # type: ignore[no-untyped-def]
    """``Phi((m + 1) r) - Phi(m r)``, see `qact.kernels.cpu.gauss.taps`; how many rows of them."""
    width, reach = load(own, RATIO), 1
    for j in range(LANES):
        reach = max(reach, min(int(math.ceil(KERNEL / own[RATIO + j])), TAPS))
    end, zero = every(KERNEL), every(0)
    step, most = every(STEP), every(4.9 * STEP)
    before = every(0.5)
    for m in range(reach):
        x = smaller(every(m + 1) * width * step, most)
        cell = floor(x)
        at = whole(cell)
        left = gathered(_PHI, at)
        value = left + (x - cell) * (gathered(_PHI[1:], at) - left)
        there = below(every(m) * width, end)  # the kernel of another lane may be longer
        store(kernel, LANES * m, chosen(there, value - before, zero))
        before = value
    fill(kernel[LANES * reach : LANES * (reach + 1)], 0)
    return reach


@exact
def convolve(edges, bins, kernel, reach, out):  # type: ignore[no-untyped-def]
    """``out[k + 1] = sum_m kernel[m] (edges[k - m] + edges[k + 1 + m])`` for k = -1 ... bins.

    Four rows at a time: of the eight that they take at a tap, they had six at the one before.
    """
    for k in range(0, LANES * (bins + 2), 4 * LANES):
        left, right = k + LANES * (PAD - 1), k + LANES * PAD
        l0, l1, l2, l3 = _four(edges, left)
        r0, r1, r2, r3 = _four(edges, right)
        a = b = c = d = every(0)
        for m in range(0, LANES * reach, LANES):
            tap = load(kernel, m)
            a, b = a + tap * (l0 + r0), b + tap * (l1 + r1)
            c, d = c + tap * (l2 + r2), d + tap * (l3 + r3)
            l0, l1, l2, l3 = load(edges, left - m - LANES), l0, l1, l2
            r0, r1, r2, r3 = r1, r2, r3, load(edges, right + m + 4 * LANES)
        store(out, k, a)
        store(out, k + LANES, b)
        store(out, k + 2 * LANES, c)
        store(out, k + 3 * LANES, d)


@exact
def _four(rows, at):  # type: ignore[no-untyped-def]
    """Four rows from a place on."""
    first, second = load(rows, at), load(rows, at + LANES)
    return first, second, load(rows, at + 2 * LANES), load(rows, at + 3 * LANES)


@exact
def _ranks(bins, reach, mass, few):  # type: ignore[no-untyped-def]
    """The rank at the edges, summed up from below; and what is above a channel's last edge."""
    own, edges, half = few.own, few.edges, every(0.5)
    zero, tail, last = every(0), half, load(own, HIGH) - load(own, LOW)
    pad = last + every(PAD)
    total = load(own, BOTTOM) + half * load(edges, LANES * PAD)
    rest = half * gathered(edges, place_of(whole(pad)))
    for m in range(reach):
        beyond = below(every(m) * load(own, RATIO), every(KERNEL))
        tail = chosen(beyond, larger(tail - load(few.kernel, LANES * m), zero), zero)
        total += tail * load(edges, LANES * (PAD + 1 + m))
        rest += tail * gathered(edges, place_of(whole(pad - every(1 + m))))
    # The mass at plus infinity: what the finite values leave of one.
    missing = every(1) - load(own, BOTTOM) - mass
    rest += chosen(below(every(1e-5), missing), missing, zero)
    store(own, ABOVE, rest)
    for k in range(bins + 1):
        store(few.rank, LANES * k, total)
        total += chosen(below(every(k), last), load(few.rise, LANES * (k + 1)), zero)


@exact
def _levels(bins, n, kind, few):  # type: ignore[no-untyped-def]
    """The level at every edge, and its rise across the bin that follows, from the last one down.

    From a channel's last edge on all stays as it is: no lane knows how long the others are.
    """
    own, half, zero = few.own, every(0.5), every(0)
    edge = every(max(0.03125 / (n + 1), 2.0**-32))
    weight, bias, above = load(own, WEIGHT), load(own, BIAS), load(own, ABOVE)
    after, last = zero, load(own, HIGH) - load(own, LOW)
    for i in range(bins + 1):
        k = LANES * (bins - i)
        rank = load(few.rank, k)
        score = rank
        if kind != UNIFORM:
            score = _normal_score(smaller(larger(smaller(rank, above), edge), half))
            score = chosen(below(half, rank), zero - score, score)
        value = weight * score + bias
        if i == 0:
            after = value
            store(few.table, k + LANES, value)
        store(few.table, k, value)
        store_pairs(few.pairs, 2 * k, value, after - value)
        inside = below(every(bins - i), last + every(1))
        above += chosen(inside, load(few.rise, k), zero)
        after = value


@exact
def _normal_score(p):  # type: ignore[no-untyped-def]
    """``Phi^-1(p)`` for ``p`` in [2^-33, 1/2], see `qact.kernels.cpu.gauss.normal_score`."""
    b = bits(p)
    at = (b >> repeat(np.int32(17))) - repeat(np.int32(LOWEST))
    part = number(b & repeat(np.int32(0x1FFFF))) * every(2.0**-17)
    left = gathered(SCORE, at)
    return left + part * (gathered(SCORE[1:], at) - left)


@exact
def kept_at(start, channels, bins, z, kept):  # type: ignore[no-untyped-def]
    """Where their rises and levels are kept, side by side as they are; -1 if they do not fit."""
    columns, size = kept.size // z.shape[1], LANES * (bins + 2)
    return start * columns if 2 * size <= channels * columns else -1
