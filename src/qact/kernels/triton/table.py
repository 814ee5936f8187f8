"""From a channel's bins to its ranks and scores: one program, a few hundred numbers."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton import gauss
from qact.kernels.triton.constants import (
    BANDWIDTH,
    BINS,
    CONTINUOUS,
    COUNTS,
    NEGATIVE,
    NORMAL,
    OFFSET,
    ONE,
    OUT_MEAN,
    OUT_VAR,
    PARTS,
    RELU,
    SIDES,
    STATE,
    WIDTH,
)
from qact.kernels.triton.tiles import given


@triton.jit
def side_weights(negative, n, sentinels, GROUNDED: tl.constexpr):
    """Weight of one value below zero, of one above, and the mass at minus infinity; float64."""
    if GROUNDED == SIDES:
        below = 0.5 / tl.maximum(negative + sentinels, 1e-30)
        above = 0.5 / tl.maximum(n - negative + sentinels, 1e-30)
        low = 0.5 - below * negative
    else:
        below = negative * 0.0 + 1.0 / n
        above, low = below, negative * 0.0
    return below, above, low


@triton.jit
def _halves(hist, k, bins, zero, below, above):
    """What bin ``k`` gives to the edges on its left and on its right."""
    packed = tl.load(hist + k, mask=(k >= 0) & (k <= bins), other=0, cache_modifier=".cg")
    weight = tl.where(k < zero, below.to(tl.float32), above.to(tl.float32))
    right = (packed & (ONE - 1)).to(tl.float32) * (weight * (1 / PARTS))
    return (packed >> COUNTS).to(tl.float32) * weight - right, right


@triton.jit
def scores(row, state, c, exists):
    """Where the scores of a channel's tables begin, ``row`` its row."""
    return row + (tl.load(state + c * STATE + BINS, mask=exists, other=0.0).to(tl.int32) + 2)


@triton.jit
def tabulate(
    hist, row, kept, room, state, c, weight, bias, sentinels, n,
    KIND: tl.constexpr, GROUNDED: tl.constexpr, NORM_OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``rise[k + 1]``, the step of the rank across bin ``k``, and ``score[k]`` at its left edge.

    Both have ``bins + 2`` float32 in ``row``, one behind the other, and once more in ``kept``
    (C, room), if there is room; the last score is repeated. ``score`` first holds the masses of the
    edges. The state learns how many values are negative, and the moments behind the level.
    """
    k, at = tl.arange(0, BLOCK), state + c * STATE
    bins = tl.load(at + BINS).to(tl.int32)
    there, rise, score = k < bins + 2, row, row + (bins + 2)
    zero = tl.minimum(tl.maximum(-tl.load(at + OFFSET).to(tl.int32), 0), bins + 1)
    negative = tl.load(hist + BLOCK - 1, cache_modifier=".cg").to(tl.float64)
    tl.store(at + NEGATIVE, negative)
    below, above, low = side_weights(negative, n, sentinels, GROUNDED)
    own, _ = _halves(hist, k, bins, zero, below, above)
    _, before = _halves(hist, k - 1, bins, zero, below, above)
    edges = tl.where(k <= bins, own + before, 0.0)
    tl.store(score + k, edges, mask=there)
    tl.debug_barrier()
    ratio = gauss.ratio_of(tl.load(at + WIDTH), tl.load(at + BANDWIDTH))
    gauss.convolve(score, rise, 0, bins + 2, bins, ratio)
    tl.debug_barrier()
    step = tl.load(rise + k, mask=there, other=0.0)
    rank, rest = _ranks(edges, step, k, bins, ratio, low)
    if GROUNDED == CONTINUOUS:
        zero = -tl.load(at + OFFSET).to(tl.int32)
        rank, rest, step, negative = _ground(
            rank, rest, step, k, bins, zero, negative, sentinels, n
        )
        tl.store(at + NEGATIVE, negative)
    tl.debug_barrier()
    tl.store(rise + k, step, mask=there)
    s = _scores(rank, rest, n, KIND)
    tl.store(score + k, s, mask=there)
    if kept is not None:
        own, many = kept + c.to(tl.int64) * room, tl.where(2 * bins + 4 <= room, bins + 2, 0)
        tl.store(own + k, step, mask=k < many)
        tl.store(own + (bins + 2) + k, s, mask=k < many)
    if NORM_OUT:
        tl.debug_barrier()
        _moments(
            hist,
            score,
            k,
            bins,
            at,
            given(weight, c, c >= 0, 1.0),
            given(bias, c, c >= 0, 0.0),
            n,
            KIND,
        )


@triton.jit
def _ranks(edges, step, k, bins, ratio, low):
    """The smooth rank at the edges and what is above them; behind the last, as at the last."""
    reach = gauss.reach(ratio)
    tail = tl.where(k <= reach, gauss.below(-k * ratio), 0.0)
    first = low + tl.sum((edges * tail).to(tl.float64), 0)
    back = bins - k
    tail = tl.where((back >= 0) & (back <= reach), gauss.below(-back * ratio), 0.0)
    missing = 1.0 - low - tl.sum(edges.to(tl.float64), 0)
    rest = tl.sum((edges * tail).to(tl.float64), 0) + tl.where(missing > 1e-5, missing, 0.0)
    inside = tl.where((k >= 1) & (k <= bins), step, 0.0).to(tl.float64)
    run = tl.cumsum(inside, 0)
    return first + run, rest + (tl.sum(inside, 0) - run)


@triton.jit
def side_slopes(negative, n, sentinels):
    """``a`` of the continuous rank below and above zero; see `qact.rank.rule.side_slopes`."""
    least = 0.5 * n / (n + 1.0)
    below = 0.5 * n / tl.maximum(negative + sentinels, least)
    return below, 0.5 * n / tl.maximum(n - negative + sentinels, least)


@triton.jit
def _ground(rank, rest, step, k, bins, zero, negative, sentinels, n):
    """``1/2 + a (G - q)`` at the edges; ``q n`` values count as negative from here on."""
    here = tl.sum(tl.where(k == zero, rank, 0.0), 0)
    beyond = tl.sum(tl.where(k == zero, rest, 0.0), 0)
    inside = (zero >= 0) & (zero <= bins)
    negative = tl.where(inside, n * tl.where(here < 0.5, here, 1 - beyond), negative)
    low, high = side_slopes(negative, n, sentinels)
    share = negative / n
    left, right = 0.5 - low * share + low * rank, 0.5 - high * (1 - share) + high * rest
    step = step * tl.where(k <= zero, low, high).to(tl.float32)
    rank, rest = tl.where(k < zero, left, 1 - right), tl.where(k < zero, 1 - left, right)
    return rank, rest, step, negative


@triton.jit
def _scores(rank, above, n, KIND: tl.constexpr):
    """The rank itself, or its normal score from the nearer tail, ``1 / (32 (n + 1))`` inside."""
    if (KIND == NORMAL) or (KIND == RELU):  # noqa: SIM109 - Triton knows no tuples here
        edge = tl.maximum(0.03125 / (n + 1.0), 2.0**-32)
        nearer = tl.maximum(tl.minimum(rank, above).to(tl.float32), edge)
        s = gauss.score(tl.minimum(nearer, 0.5))
        s = tl.where(rank > 0.5, -s, s)
    else:
        s = rank.to(tl.float32)
    return s


@triton.jit
def _moments(hist, score, k, bins, state, weight, bias, n, KIND: tl.constexpr):
    """Mean and variance of what the table will give, into ``state``.

    Exact but for the spread of places within a bin, which is taken as that of evenly spread ones:
    an error below 1/8 of the squared rise across one bin.
    """
    packed = tl.load(hist + k, mask=k <= bins, other=0, cache_modifier=".cg")
    count = (packed >> COUNTS).to(tl.float64)
    place = (packed & (ONE - 1)).to(tl.float64) / PARTS / tl.maximum(count, 1.0)
    left = tl.load(score + k, mask=k <= bins, other=0.0) * weight + bias
    right = tl.load(score + k + 1, mask=k <= bins, other=0.0) * weight + bias
    base = tl.load(score) * weight + bias
    if KIND == RELU:
        left, right, base = tl.maximum(left, 0.0), tl.maximum(right, 0.0), tl.maximum(base, 0.0)
    rise = (right - left).to(tl.float64)
    middle = (left - base).to(tl.float64) + place * rise
    inner = tl.maximum(count - 1, 0.0) * place * (1 - place) * rise * rise / 3
    mean = tl.sum(count * middle, 0) / n
    square = tl.sum(count * middle * middle + inner, 0) / n
    tl.store(state + OUT_MEAN, base + mean)
    tl.store(state + OUT_VAR, tl.maximum(square - mean * mean, 0.0))
