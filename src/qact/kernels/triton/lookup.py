"""A value's score by interpolation in its channel's table, and the norm behind it."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.constants import OUT_MEAN, OUT_VAR, RELU, STATE
from qact.kernels.triton.observe import axis, in_norm, locate, normed, sound
from qact.kernels.triton.tiles import given, single, tile, wide


@triton.jit
def interpolate(score, y, inverse, offset, bins):
    """The score of values ``y``; ``score`` points to their channels' tables of edges."""
    cell, place = locate(y, inverse, offset, bins)
    left, right = tl.load(score + cell), tl.load(score + cell + 1)
    return left + place * (right - left)


@triton.jit
def out_norm(state, c, exists, eps, NORM: tl.constexpr):
    """Mean and ``1 / sqrt(variance + eps)`` of the norm behind, in float32."""
    at = state + c * STATE
    if NORM:
        mean = single(tl.load(at + OUT_MEAN, mask=exists, other=0.0))
        scale = single(1 / tl.sqrt(tl.load(at + OUT_VAR, mask=exists, other=1.0) + eps))
    else:
        mean = single(wide(c))
        scale = single(wide(c))
    return mean, scale


@triton.jit
def look_up(
    z, out, score, state, c, exists, first, last, in_weight, in_bias, weight, bias, out_weight,
    out_bias, eps_in, eps_out, C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Norm, level and norm of every value, ``score`` the tables of its channels.

    A ReLU is left to the values: a table would smear its kink over a bin.
    """
    in_mean, in_scale, w_in, b_in = in_norm(state, c, exists, in_weight, in_bias, eps_in, NORM_IN)
    out_mean, out_scale = out_norm(state, c, exists, eps_out, NORM_OUT)
    w, b = given(weight, c, exists, 1.0), given(bias, c, exists, 0.0)
    w_out, b_out = given(out_weight, c, exists, 1.0), given(out_bias, c, exists, 0.0)
    inverse, offset, bins = axis(state, c, exists)
    finite = sound(state, c, exists)
    for t in range(first, last):
        place, _, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
        x = tl.load(z + place, mask=mask & finite, other=0.0).to(tl.float32)
        y, _ = normed(x, in_mean, in_scale, w_in, b_in, NORM_IN)
        value = interpolate(score, y, inverse, offset, bins) * w + b
        if KIND == RELU:
            value = tl.maximum(value, 0.0)
        if NORM_OUT:
            value = (value - out_mean) * out_scale * w_out + b_out
        value = tl.where(finite, value, float("nan"))
        tl.store(out + place, value.to(out.dtype.element_ty), mask=mask)
