"""From a channel's bins of gradients to the slopes of its values: one program a channel."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton import gauss
from qact.kernels.triton.constants import (
    BANDWIDTH,
    BINS,
    CONTINUOUS,
    MEAN,
    NEGATIVE,
    OFFSET,
    STATE,
    STD,
    WIDTH,
)
from qact.kernels.triton.observe import varies
from qact.kernels.triton.table import side_slopes


@triton.jit
def _levels(score, k, bins, weight):
    """The rise of the level across bin ``k``."""
    inside = (k >= 0) & (k <= bins)
    left = tl.load(score + k, mask=inside, other=0.0)
    right = tl.load(score + k + 1, mask=inside, other=0.0)
    return (right - left) * weight


@triton.jit
def _halves(mass, k, bins, BLOCK: tl.constexpr):
    """What bin ``k`` gives to the edges on its left and on its right."""
    inside = (k >= 0) & (k <= bins)
    total = tl.load(mass + k, mask=inside, other=0.0, cache_modifier=".cg")
    right = tl.load(mass + BLOCK + k, mask=inside, other=0.0, cache_modifier=".cg")
    return total - right, right


@triton.jit
def tabulate(
    mass, edges, pairs, rise, score, state, c, weight, factor, sentinels, n,
    GROUNDED: tl.constexpr, FULL: tl.constexpr, RELATIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Slopes of level and context at the middles of bins, for two straight lines per value.

    ``pairs[2 i]`` and ``pairs[2 i + 1]`` for the middle of bin ``i - 1`` below zero and ``i - 3``
    above: each side of zero is continued on its own, since levels and weights may jump there.
    Behind them stands the pull of the bandwidth, by the heat equation ``dF/dh = h F''``.
    """
    k, at = tl.arange(0, BLOCK), state + c * STATE
    bins, width = tl.load(at + BINS).to(tl.int32), tl.load(at + WIDTH)
    std, h = tl.load(at + STD), tl.load(at + BANDWIDTH)
    zero = tl.minimum(tl.maximum(-tl.load(at + OFFSET).to(tl.int32), 0), bins)
    level = _levels(score, k, bins, weight)
    context, pull = level * 0.0, width * 0.0
    if FULL:
        own, _ = _halves(mass, k, bins, BLOCK)
        _, before = _halves(mass, k - 1, bins, BLOCK)
        here = tl.load(rise + k, mask=k <= bins, other=0.0)
        after = tl.load(rise + k + 1, mask=k <= bins, other=0.0)
        # The slope of the level at an edge is that of the line through the edges on either side.
        slope = (level + _levels(score, k - 1, bins, weight)) / tl.maximum(here + after, 1e-30)
        masses = tl.where((k >= 1) & (k < bins), (own + before) * slope, 0.0)
        if GROUNDED == CONTINUOUS:
            raw, negative = -tl.load(at + OFFSET).to(tl.int32), tl.load(at + NEGATIVE)
            masses, here, after = _through_ground(
                masses, here, after, k, bins, raw, negative, sentinels, n
            )
        tl.store(edges + k, masses)
        heat = tl.sum((masses * (after - here)).to(tl.float64), 0) * h / (width * width)
        # In units of bins, so that it does not overflow where values are tiny.
        pull = tl.where(std > 0, heat * factor / (tl.maximum(std, 1e-300) * n), 0.0) * width
        tl.debug_barrier()
        gauss.convolve(edges, pairs, 1, bins, bins, gauss.ratio_of(width, h))
        tl.debug_barrier()
        context = -tl.load(pairs + k, mask=k < bins, other=0.0)
        tl.debug_barrier()
    if RELATIVE:
        alive = varies(tl.load(at + MEAN), std).to(tl.float32)
        level, context, pull = level * alive, context * alive, pull * alive
    inverse = (1 / width).to(tl.float32)
    place = pairs + 2 * tl.where(k < zero, k + 1, k + 3)
    tl.store(place, level * inverse, mask=k < bins)
    tl.store(place + 1, context * inverse, mask=k < bins)
    tl.store(pairs + 2 * BLOCK + 12, pull.to(tl.float32))
    tl.debug_barrier()
    _continue(pairs, 1, zero)
    _continue(pairs + 1, 1, zero)
    _continue(pairs, zero + 3, bins + 2)
    _continue(pairs + 1, zero + 3, bins + 2)


@triton.jit
def _through_ground(masses, here, after, k, bins, zero, negative, sentinels, n):
    """``dL/dF`` at the edges becomes ``dL/dG``, and the rises of ``F`` those of ``G``.

    With ``a = 1 / (2 q)`` below zero, ``dF = a dG - 2 a F dq``; above, ``1 - F`` in the place of
    ``F``. ``a`` is constant where it stands at its largest.
    """
    low, high = side_slopes(negative, n, sentinels)
    low, high, least = low.to(tl.float32), high.to(tl.float32), 0.5 * n / (n + 1.0)
    total = tl.cumsum(tl.where((k >= 0) & (k < bins), after, 0.0), 0) - after
    gap = tl.abs(total - tl.sum(tl.where(k == zero, total, 0.0), 0))
    moving = tl.where(k < zero, negative + sentinels > least, n - negative + sentinels > least)
    nearer = tl.where(moving, tl.maximum(1 - 2 * gap, 0.0), 1.0)
    masses = masses * tl.where(k < zero, low, high)
    at_zero = -tl.sum(tl.where(k == zero, 0.0, masses * nearer), 0)
    inside = (zero >= 0) & (zero <= bins)
    masses = tl.where((k == zero) & inside, at_zero, masses)
    return masses, here / tl.where(k <= zero, low, high), after / tl.where(k < zero, low, high)


@triton.jit
def _continue(line, first, last):
    """One more entry on either side of ``first ... last``, on a straight line."""
    some = last >= first
    second, before = tl.minimum(first + 1, last), tl.maximum(last - 1, first)
    a = tl.load(line + 2 * first, mask=some, other=0.0)
    b = tl.load(line + 2 * second, mask=some, other=0.0)
    y = tl.load(line + 2 * before, mask=some, other=0.0)
    z = tl.load(line + 2 * last, mask=some, other=0.0)
    tl.store(line + 2 * (first - 1), 2 * a - b)
    tl.store(line + 2 * tl.maximum(last + 1, first), 2 * z - y)
