"""The backward pass's loops over tiles: sums along both norms, bins of gradients, the result."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.constants import RELU, SUM_IN, SUM_OUT, SUM_SCORE, TOP_GRAD, TOP_VALUE
from qact.kernels.triton.descent import descend, hand_on, quantum, read, read_level
from qact.kernels.triton.lookup import out_norm
from qact.kernels.triton.observe import axis, locate, normed, sound
from qact.kernels.triton.tiles import largest, single, tile, total, wide


@triton.jit
def sum_out(
    z, grad, table, codes, state, sums, s, c, exists, first, last, norm, affine, eps_out, steps,
    C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``sum g``, ``sum g v`` and the largest of both, ``v`` the values behind the last norm."""
    weight, bias = affine
    out_mean, out_scale = out_norm(state, c, exists, eps_out, NORM_OUT)
    fine = sound(state, c, exists)
    product, added, top, bits = wide(c), wide(c), single(wide(c)), c * 0
    for t in range(first, last):
        place, index, mask, _ = tile(t, c, exists, C, L, n, ROWS, V, K)
        g = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        bits = tl.maximum(bits, largest(g.to(tl.int32, bitcast=True) & 0x7FFFFFFF, K))
        if NORM_OUT:
            x = tl.load(z + place, mask=mask & fine, other=0.0).to(tl.float32)
            y, _ = normed(x, *norm, NORM_IN)
            _, value = read_level(
                table, codes, c, exists, index, mask, y, weight, bias, state, steps, n,
                KIND,
            )  # fmt: skip
            level = tl.maximum(value, 0.0) if KIND == RELU else value
            v = tl.where(mask, (level - out_mean) * out_scale, 0.0)
            product += total(g * v, K).to(tl.float64)
            added += total(g, K).to(tl.float64)
            top = tl.maximum(top, largest(tl.abs(v), K))
    bound = tl.where(bits < 0x7F800000, bits.to(tl.float32, bitcast=True), float("inf"))
    hand_on(sums, state, s, c, exists, C, TOP_GRAD, bound.to(tl.float64))
    if NORM_OUT:
        hand_on(sums, state, s, c, exists, C, SUM_OUT, product)
        hand_on(sums, state, s, c, exists, C, SUM_OUT + 1, added)
        hand_on(sums, state, s, c, exists, C, TOP_VALUE, top.to(tl.float64))


@triton.jit
def spread(
    z, grad, table, codes, state, mass, c, exists, first, last, norm, affine, out, bound, steps,
    C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The histogram of gradients ``mass`` (C, BLOCK, 2): of ``g``, and of ``g`` times the place."""
    inverse, offset, bins = axis(state, c, exists)
    fine, scale = sound(state, c, exists), 1.0 / quantum(bound)
    row = mass + c.to(tl.int64) * (2 * BLOCK)
    for t in range(first, last):
        where, index, mask, _ = tile(t, c, exists, C, L, n, ROWS, V, K)
        mask = mask & fine
        y, _, _, g = read(
            z, grad, table, codes, state, c, exists, where, index, mask, norm, affine, out,
            steps, n, KIND, NORM_IN, NORM_OUT, False,
        )  # fmt: skip
        cell, place = locate(y, inverse, offset, bins)
        g = g * scale
        mask = mask & (tl.abs(g) < 2.0**31)
        whole, right = tl.floor(g + 0.5).to(tl.int64), tl.floor(g * place + 0.5).to(tl.int64)
        tl.atomic_add(row + 2 * cell, whole, mask=mask, sem="relaxed")
        tl.atomic_add(row + 2 * cell + 1, right, mask=mask, sem="relaxed")


@triton.jit
def sum_in(
    z, grad, table, codes, state, pairs, sums, s, c, exists, first, last, norm, affine, out,
    numbers, steps, C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``sum g`` and ``sum g x`` of the gradient at the quantile, ``x`` behind the first norm."""
    fine, product, added = sound(state, c, exists), wide(c), wide(c)
    for t in range(first, last):
        place, index, mask, _ = tile(t, c, exists, C, L, n, ROWS, V, K)
        mask = mask & fine
        y, x, _, g = read(
            z, grad, table, codes, state, c, exists, place, index, mask, norm, affine, out,
            steps, n, KIND, NORM_IN, NORM_OUT, False,
        )  # fmt: skip
        g = tl.where(mask, descend(pairs, c, y, g, numbers, BLOCK), 0.0)
        product += total(g * x, K).to(tl.float64)
        added += total(g, K).to(tl.float64)
    hand_on(sums, state, s, c, exists, C, SUM_IN, product)
    hand_on(sums, state, s, c, exists, C, SUM_IN + 1, added)


@triton.jit
def finish(
    z, grad, table, codes, state, pairs, sums, dz, s, c, exists, first, last, norm, affine, out,
    numbers, within, steps, C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``dL/dz``; and, if ``SCORED``, the gradients of the score's scale and shift."""
    fine, product, added = sound(state, c, exists), wide(c), wide(c)
    mean, along, slope = within
    for t in range(first, last):
        place, index, mask, _ = tile(t, c, exists, C, L, n, ROWS, V, K)
        y, x, score, g = read(
            z, grad, table, codes, state, c, exists, place, index, mask & fine, norm, affine,
            out, steps, n, KIND, NORM_IN, NORM_OUT, SCORED,
        )  # fmt: skip
        if SCORED:
            product += total(g * score, K).to(tl.float64)
            added += total(g, K).to(tl.float64)
        g = descend(pairs, c, y, g, numbers, BLOCK)
        if NORM_IN:
            g = slope * (g - mean - x * along)
        g = tl.where(fine, g, float("nan"))
        tl.store(dz + place, g.to(dz.dtype.element_ty), mask=mask)
    if SCORED:
        hand_on(sums, state, s, c, exists, C, SUM_SCORE, product)
        hand_on(sums, state, s, c, exists, C, SUM_SCORE + 1, added)
