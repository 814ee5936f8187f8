"""The gradient's pieces: through a norm, the histogram of gradients, and a value's slope."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.constants import (
    FINITE,
    MEAN,
    NEGATIVE,
    RELU,
    STATE,
    STEPS,
    SUM_OUT,
    SUMS,
)
from qact.kernels.triton.lookup import interpolate, out_norm
from qact.kernels.triton.observe import axis, normed
from qact.kernels.triton.table import side_weights
from qact.kernels.triton.tiles import beside, given, single, total, wide


@triton.jit
def summed(sums, c, C, column: tl.constexpr, S, SPLITS: tl.constexpr, K: tl.constexpr):
    """One column of what all programs of a channel have summed up."""
    s, channels = tl.arange(0, SPLITS)[:, None], c + tl.zeros([1, 1], tl.int32)
    x = tl.load(sums + (s * SUMS + column) * C + channels, mask=s < S, other=0.0)
    return total(x, K)


@triton.jit
def hand_on(sums, state, s, c, exists, C, column: tl.constexpr, value, K: tl.constexpr):
    """The sum over lanes as one column of this program; a channel that is not finite has none."""
    finite = tl.load(state + c * STATE + FINITE, mask=exists, other=0.0).to(tl.int32)
    value = tl.where(finite > 0, total(value, K).to(tl.float64), float("nan"))
    tl.store(sums + (s * SUMS + column) * C + c, value, mask=exists)


@triton.jit
def out_terms(
    sums, state, c, exists, out_weight, eps_out, C, n, S,
    NORM_OUT: tl.constexpr, SPLITS: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Mean of ``g`` and of ``g v`` over a channel, and the norm's slope."""
    mean, along, slope = wide(c), wide(c), wide(c) + 1.0
    if NORM_OUT:
        along = summed(sums, c, C, SUM_OUT, S, SPLITS, K) / n
        mean = summed(sums, c, C, SUM_OUT + 1, S, SPLITS, K) / n
        _, scale = out_norm(state, c, exists, eps_out, NORM_OUT)
        slope = slope * given(out_weight, c, exists, 1.0) * scale
    return single(mean), single(along), single(slope)


@triton.jit
def read_level(
    table, codes, c, exists, index, mask, y, weight, bias, state, steps, n, KIND: tl.constexpr
):  # fmt: skip
    """Score of every value, and its level, before a ReLU and the norm behind."""
    if KIND == STEPS:
        code = tl.load(codes + c.to(tl.int64) * n + index, mask=mask, other=0).to(tl.float32)
        score, value = code / (steps + 1.0), code * (weight / (steps + 1.0)) + bias
    else:
        inverse, offset, bins = axis(state, c, exists)
        score = interpolate(table, y, inverse, offset, bins)
        value = score * weight + bias
    return score, value


@triton.jit
def read(
    z, grad, table, codes, state, c, exists, place, index, mask, norm, affine, out, steps, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
):  # fmt: skip
    """Values before the quantile, before the first norm's scale, scores, and ``dL/dv``."""
    x = tl.load(z + place, mask=mask, other=0.0).to(tl.float32)
    y, normal = normed(x, *norm, NORM_IN)
    g = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
    score = y
    if (NORM_OUT or SCORED) or KIND == RELU:  # Triton 3.3 chains no more than two
        out_mean, out_scale, mean, along, slope = out
        weight, bias = affine
        score, value = read_level(
            table, codes, c, exists, index, mask, y, weight, bias, state, steps, n, KIND
        )
        level = tl.maximum(value, 0.0) if KIND == RELU else value
        if NORM_OUT:
            g = slope * (g - mean - (level - out_mean) * out_scale * along)
            g = tl.where(mask, g, 0.0)
        if KIND == RELU:
            g = tl.where(value > 0, g, 0.0)
    return y, normal, score, g


@triton.jit
def descend(pairs, c, y, g, numbers, BLOCK: tl.constexpr):
    """``g slope + w context + pull (y - mean)``: two straight lines between middles of bins."""
    inverse, offset, bins, below, above, pull, centre = numbers
    unit = y * inverse
    scaled = tl.maximum(unit, offset.to(tl.float32))
    scaled = tl.minimum(scaled, (offset + bins).to(tl.float32)) - 0.5
    floor = tl.floor(scaled)
    place, side = scaled - floor, tl.where(y >= 0, 2, 0)
    pair = pairs + c.to(tl.int64) * (2 * BLOCK + 16) + 2 * (floor.to(tl.int32) - offset + 1 + side)
    slope, context = beside(pair)
    next_slope, next_context = beside(pair + 2)
    slope += place * (next_slope - slope)
    context += place * (next_context - context)
    weight = tl.where(y >= 0, above, below)
    return g * slope + weight * context + pull * (unit - centre)


@triton.jit
def slope_numbers(
    pairs, state, c, exists, sentinels, n, GROUNDED: tl.constexpr, BLOCK: tl.constexpr
):
    """What :func:`descend` needs of a channel."""
    inverse, offset, bins = axis(state, c, exists)
    negative = tl.load(state + c * STATE + NEGATIVE, mask=exists, other=0.0)
    below, above, _ = side_weights(negative, n, sentinels, GROUNDED)
    pull = tl.load(pairs + c.to(tl.int64) * (2 * BLOCK + 16) + 2 * BLOCK + 12)
    centre = single(tl.load(state + c * STATE + MEAN, mask=exists, other=0.0)) * inverse
    return inverse, offset, bins, single(below), single(above), pull, centre
