"""The backward pass's loops over tiles: sums along both norms, bins of gradients, the result."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.bins import blank, put, weigh
from qact.kernels.triton.constants import RELU, SUM_IN, SUM_OUT, SUM_SCORE
from qact.kernels.triton.descent import descend, hand_on, read, read_level
from qact.kernels.triton.lookup import out_norm
from qact.kernels.triton.observe import axis, locate, normed, sound
from qact.kernels.triton.tiles import lanes, tile


@triton.jit
def sum_out(
    z, grad, table, codes, state, sums, s, c, exists, first, last, norm, affine, eps_out, steps,
    C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``sum g`` and ``sum g v``, ``v`` the values behind the last norm."""
    weight, bias = affine
    out_mean, out_scale = out_norm(state, c, exists, eps_out, NORM_OUT)
    fine, zero = sound(state, c, exists), lanes(ROWS, V, K)
    product, added = zero, zero
    for t in range(first, last):
        place, index, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
        g = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(z + place, mask=mask & fine, other=0.0).to(tl.float32)
        y, _ = normed(x, *norm, NORM_IN)
        _, value = read_level(
            table, codes, c, exists, index, mask, y, weight, bias, state, steps, n, KIND
        )
        level = tl.maximum(value, 0.0) if KIND == RELU else value
        v = tl.where(mask, (level - out_mean) * out_scale, 0.0)
        product += g * v
        added += g
    hand_on(sums, state, s, c, exists, C, SUM_OUT, product, K)
    hand_on(sums, state, s, c, exists, C, SUM_OUT + 1, added, K)


@triton.jit
def spread(
    z, grad, table, codes, state, mass, sums, s, c, exists, first, last, norm, affine, out, steps,
    C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
    BLOCK: tl.constexpr, SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The bins of gradients ``mass`` (C, 2, BLOCK): of ``g``, and of ``g`` times the place.

    And, if ``SCORED``, the gradients of the score's scale and shift.
    """
    inverse, offset, bins = axis(state, c, exists)
    fine, zero = sound(state, c, exists), lanes(ROWS, V, K)
    product, added = zero, zero
    row = mass + c.to(tl.int64) * (2 * BLOCK)
    for base in range(0, (tl.max(bins, 0) if K > 1 else bins) + 1, SPAN):
        all, right = blank(K, SPAN, tl.float32, HISTOGRAM), blank(K, SPAN, tl.float32, HISTOGRAM)
        product, added = zero, zero
        for t in range(first, last):
            where, index, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
            mask = mask & fine
            y, _, score, g = read(
                z, grad, table, codes, state, c, exists, where, index, mask, norm, affine, out,
                steps, n, KIND, NORM_IN, NORM_OUT, SCORED,
            )  # fmt: skip
            if SCORED:
                product += g * score
                added += g
            cell, place = locate(y, inverse, offset, bins)
            all, right = weigh(all, right, cell - base, place, g, mask, K, SPAN, HISTOGRAM)
        put(row, base, bins, exists, all, K, SPAN)
        put(row + BLOCK, base, bins, exists, right, K, SPAN)
    if SCORED:
        hand_on(sums, state, s, c, exists, C, SUM_SCORE, product, K)
        hand_on(sums, state, s, c, exists, C, SUM_SCORE + 1, added, K)


@triton.jit
def sum_in(
    z, grad, table, codes, state, pairs, sums, s, c, exists, first, last, norm, affine, out,
    numbers, steps, C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``sum g`` and ``sum g x`` of the gradient at the quantile, ``x`` behind the first norm.

    And, if ``SCORED``, the gradients of the score's scale and shift.
    """
    fine, zero = sound(state, c, exists), lanes(ROWS, V, K)
    product, added = zero, zero
    scored, shifted = zero, zero
    for t in range(first, last):
        place, index, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
        mask = mask & fine
        y, x, score, g = read(
            z, grad, table, codes, state, c, exists, place, index, mask, norm, affine, out,
            steps, n, KIND, NORM_IN, NORM_OUT, SCORED,
        )  # fmt: skip
        if SCORED:
            scored += g * score
            shifted += g
        if NORM_IN:
            g = tl.where(mask, descend(pairs, c, y, g, numbers, BLOCK), 0.0)
            product += g * x
            added += g
    if NORM_IN:
        hand_on(sums, state, s, c, exists, C, SUM_IN, product, K)
        hand_on(sums, state, s, c, exists, C, SUM_IN + 1, added, K)
    if SCORED:
        hand_on(sums, state, s, c, exists, C, SUM_SCORE, scored, K)
        hand_on(sums, state, s, c, exists, C, SUM_SCORE + 1, shifted, K)


@triton.jit
def finish(
    z, grad, table, codes, state, pairs, dz, c, exists, first, last, norm, affine, out,
    numbers, within, steps, C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``dL/dz``."""
    fine = sound(state, c, exists)
    mean, along, slope = within
    for t in range(first, last):
        place, index, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
        y, x, _, g = read(
            z, grad, table, codes, state, c, exists, place, index, mask & fine, norm, affine,
            out, steps, n, KIND, NORM_IN, NORM_OUT, False,
        )  # fmt: skip
        g = descend(pairs, c, y, g, numbers, BLOCK)
        if NORM_IN:
            g = slope * (g - mean - x * along)
        g = tl.where(fine, g, float("nan"))
        tl.store(dz + place, g.to(dz.dtype.element_ty), mask=mask)
