"""The gradient: up to five launches that share channels out, or one program for each channel.

With ``g = dL/dv`` for the values ``v = T(F_h(y))`` of a channel and ``T'`` the slope of its level,

    dL/dy_j = g_j T'(F(y_j)) f_h(y_j) - w_j sum_i g_i T'(F(y_i)) phi_h(y_i - y_j)  + dL/dh dh/dy_j
"""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton import observe, slopes, sums
from qact.kernels.triton.bins import join
from qact.kernels.triton.constants import BINS, STATE, SUM_IN, SUM_OUT, SUM_SCORE
from qact.kernels.triton.descent import out_terms, slope_numbers, summed
from qact.kernels.triton.lookup import out_norm
from qact.kernels.triton.observe import in_norm
from qact.kernels.triton.table import scores, tabulate
from qact.kernels.triton.tiles import channel, extent, given, single, wide


@triton.jit
def _start(state, c, exists, in_weight, in_bias, weight, bias, eps_in, NORM_IN: tl.constexpr):
    """The first norm and the score's affine map, as numbers of this channel."""
    norm = in_norm(state, c, exists, in_weight, in_bias, eps_in, NORM_IN)
    return norm, (given(weight, c, exists, 1.0), given(bias, c, exists, 0.0))


@triton.jit
def _out(
    partial, state, c, exists, out_weight, eps_out, C, n, S,
    NORM_OUT: tl.constexpr, SPLITS: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The norm behind and its gradient, as numbers of this channel."""
    mean, along, slope = out_terms(
        partial, state, c, exists, out_weight, eps_out, C, n, S, NORM_OUT, SPLITS, K
    )
    out_mean, out_scale = out_norm(state, c, exists, eps_out, NORM_OUT)
    return out_mean, out_scale, mean, along, slope


@triton.jit
def _within(
    partial, state, c, exists, norm, C, n, S,
    NORM_IN: tl.constexpr, SPLITS: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Mean of the gradient at the quantile, its mean along the values, and the norm's slope."""
    mean, scale, weight, _ = norm
    along = mean
    if NORM_IN:
        along = single(summed(partial, c, C, SUM_IN, S, SPLITS, K) / n)
        mean = single(summed(partial, c, C, SUM_IN + 1, S, SPLITS, K) / n)
    return mean, along, scale * weight


@triton.jit
def _hand_out(
    partial, grads, c, exists, C, S, SCORERS,
    NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
    SPLITS: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The gradients of the affine tensors ``grads`` (6, C): what programs have summed up, or 0."""
    _pair(partial, grads, c, exists, C, SUM_IN, S, NORM_IN, SPLITS, K)
    _pair(partial, grads, c, exists, C, SUM_SCORE, SCORERS, SCORED, SPLITS, K)
    _pair(partial, grads, c, exists, C, SUM_OUT, S, NORM_OUT, SPLITS, K)


@triton.jit
def _pair(
    partial, grads, c, exists, C, column: tl.constexpr, S,
    THERE: tl.constexpr, SPLITS: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    scale, shift = wide(c), wide(c)
    if THERE:
        scale = summed(partial, c, C, column, S, SPLITS, K)
        shift = summed(partial, c, C, column + 1, S, SPLITS, K)
    at = grads + column * C + c
    tl.store(at, single(scale), mask=exists)
    tl.store(at + C, single(shift), mask=exists)


@triton.jit
def sum_out(
    z, grad, tables, span, codes, state, partial, in_weight, in_bias, weight, bias, eps_in, eps_out,
    steps, C, L, n, per,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The first pass: sums along the norm behind."""
    c, exists = channel(C, K)
    score = scores(tables + c.to(tl.int64) * span, state, c, exists)
    s, first, last = extent(per, n, ROWS, V)
    norm, affine = _start(state, c, exists, in_weight, in_bias, weight, bias, eps_in, NORM_IN)
    sums.sum_out(
        z, grad, score, codes, state, partial, s, c, exists, first, last, norm, affine, eps_out,
        steps, C, L, n, KIND, NORM_IN, NORM_OUT, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def spread(
    z, grad, tables, span, codes, state, partial, mass, in_weight, in_bias, weight, bias,
    out_weight, eps_in, eps_out, steps, C, L, n, per, S,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The second pass: gradients by bins into ``mass`` (programs, C, 2, BLOCK)."""
    c, exists = channel(C, K)
    score = scores(tables + c.to(tl.int64) * span, state, c, exists)
    s, first, last = extent(per, n, ROWS, V)
    norm, affine = _start(state, c, exists, in_weight, in_bias, weight, bias, eps_in, NORM_IN)
    out = _out(partial, state, c, exists, out_weight, eps_out, C, n, S, NORM_OUT, SPLITS, K)
    sums.spread(
        z, grad, score, codes, state, mass + s.to(tl.int64) * C * (2 * BLOCK), partial, s, c,
        exists, first, last, norm, affine, out, steps, C, L, n,
        KIND, NORM_IN, NORM_OUT, SCORED, BLOCK, SPAN, HISTOGRAM, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def table(
    parts, mass, edges, pairs, tables, span, state, weight, factor, sentinels, C, n, S,
    KIND: tl.constexpr, GROUNDED: tl.constexpr, FULL: tl.constexpr, RELATIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Slopes of level and context, one channel a program; ``S`` have counted ``mass``.

    And ``parts``, if given: then ranks and scores are made here, since nothing before needs them.
    """
    c, _ = channel(C, 1)
    if parts is not None:
        bins, most = parts + c.to(tl.int64) * BLOCK, tl.load(state + c * STATE + BINS)
        k = tl.arange(0, BLOCK)
        stride = tl.cast(C, tl.int64) * BLOCK
        join(bins, stride, S, k, (k <= most.to(tl.int32)) | (k == BLOCK - 1))
        tabulate(
            bins, tables + c.to(tl.int64) * span, None, 0, state, c, None, None, sentinels, n,
            KIND, GROUNDED, False, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
    if FULL:
        row, most = mass + c.to(tl.int64) * (2 * BLOCK), tl.load(state + c * STATE + BINS)
        k = tl.arange(0, 2 * BLOCK)
        join(row, tl.cast(C, tl.int64) * (2 * BLOCK), S, k, k % BLOCK <= most.to(tl.int32))
    _slopes(
        mass, edges, pairs, tables + c.to(tl.int64) * span, state, c, weight, factor, sentinels,
        n, GROUNDED, FULL, RELATIVE, BLOCK,
    )  # fmt: skip


@triton.jit
def _slopes(
    mass, edges, pairs, row, state, c, weight, factor, sentinels, n,
    GROUNDED: tl.constexpr, FULL: tl.constexpr, RELATIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = c.to(tl.int64) * BLOCK
    score, weight = scores(row, state, c, c >= 0), given(weight, c, c >= 0, 1.0)
    slopes.tabulate(
        mass + 2 * at, edges + at, pairs + c.to(tl.int64) * (2 * BLOCK + 16), row, score, state, c,
        weight, factor, sentinels, n, GROUNDED, FULL, RELATIVE, BLOCK,
    )  # fmt: skip


@triton.jit
def sum_in(
    z, grad, tables, span, codes, state, partial, pairs, in_weight, in_bias, weight, bias,
    out_weight, eps_in, eps_out, sentinels, steps, C, L, n, per, S,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
    GROUNDED: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The third pass: sums along the first norm, and along the score where no pass did before."""
    c, exists = channel(C, K)
    score = scores(tables + c.to(tl.int64) * span, state, c, exists)
    s, first, last = extent(per, n, ROWS, V)
    norm, affine = _start(state, c, exists, in_weight, in_bias, weight, bias, eps_in, NORM_IN)
    out = _out(partial, state, c, exists, out_weight, eps_out, C, n, S, NORM_OUT, SPLITS, K)
    numbers = slope_numbers(pairs, state, c, exists, sentinels, n, GROUNDED, BLOCK)
    sums.sum_in(
        z, grad, score, codes, state, pairs, partial, s, c, exists, first, last, norm, affine,
        out, numbers, steps, C, L, n, KIND, NORM_IN, NORM_OUT, SCORED, BLOCK, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def finish(
    z, grad, tables, span, codes, state, partial, pairs, dz, grads, in_weight, in_bias, weight,
    bias, out_weight, eps_in, eps_out, sentinels, steps, C, L, n, per, S, scorers,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, SCORED: tl.constexpr,
    GROUNDED: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The last pass: ``dL/dz``, and the sums of all ``S`` programs (of the score: ``scorers``)."""
    c, exists = channel(C, K)
    score = scores(tables + c.to(tl.int64) * span, state, c, exists)
    s, first, last = extent(per, n, ROWS, V)
    norm, affine = _start(state, c, exists, in_weight, in_bias, weight, bias, eps_in, NORM_IN)
    out = _out(partial, state, c, exists, out_weight, eps_out, C, n, S, NORM_OUT, SPLITS, K)
    numbers = slope_numbers(pairs, state, c, exists, sentinels, n, GROUNDED, BLOCK)
    within = _within(partial, state, c, exists, norm, C, n, S, NORM_IN, SPLITS, K)
    sums.finish(
        z, grad, score, codes, state, pairs, dz, c, exists, first, last, norm, affine, out,
        numbers, within, steps, C, L, n, KIND, NORM_IN, NORM_OUT, BLOCK, ROWS, V, K,
    )  # fmt: skip
    if s == 0:
        _hand_out(partial, grads, c, exists, C, S, scorers, NORM_IN, NORM_OUT, SCORED, SPLITS, K)


@triton.jit
def whole(
    z, grad, tables, span, codes, state, partial, mass, edges, pairs, dz, grads, hist, spare,
    in_weight, in_bias, weight, bias, out_weight, eps_in, eps_out, factor, sentinels, steps,
    C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, GROUNDED: tl.constexpr,
    SCORED: tl.constexpr, FULL: tl.constexpr, RELATIVE: tl.constexpr, BLOCK: tl.constexpr,
    SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
    ROWS: tl.constexpr, FINE: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """All passes over one channel; what one writes the next reads behind a barrier.

    Ranks and scores that did not fit into the ``span`` of ``tables`` are made once more, in
    ``spare``, by bins in ``hist``.
    """
    c, exists = channel(C, 1)
    row = tables + c.to(tl.int64) * span
    tiles, fine = tl.cdiv(n, ROWS * V), tl.cdiv(n, FINE * V)
    if hist is not None:
        kept = 2 * tl.load(state + c * STATE + BINS).to(tl.int32) + 4 <= span
        row = tl.where(kept, row, spare + c.to(tl.int64) * (2 * BLOCK))
        if not kept:
            observe.count(
                z, hist, state, c, exists, 0, fine, in_weight, in_bias, eps_in, C, L, n,
                NORM_IN, BLOCK, SPAN, HISTOGRAM, FINE, V, 1,
            )  # fmt: skip
            tl.debug_barrier()
            tabulate(
                hist + c.to(tl.int64) * BLOCK, row, None, 0, state, c, weight, bias, sentinels, n,
                KIND, GROUNDED, False, BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
    score = scores(row, state, c, exists)
    norm, affine = _start(state, c, exists, in_weight, in_bias, weight, bias, eps_in, NORM_IN)
    if NORM_OUT:
        sums.sum_out(
            z, grad, score, codes, state, partial, 0, c, exists, 0, tiles, norm, affine, eps_out,
            steps, C, L, n, KIND, NORM_IN, NORM_OUT, ROWS, V, 1,
        )  # fmt: skip
        tl.debug_barrier()
    out = _out(partial, state, c, exists, out_weight, eps_out, C, n, 1, NORM_OUT, 1, 1)
    if FULL:
        sums.spread(
            z, grad, score, codes, state, mass, partial, 0, c, exists, 0, fine, norm, affine, out,
            steps, C, L, n, KIND, NORM_IN, NORM_OUT, SCORED, BLOCK, SPAN, HISTOGRAM, FINE, V, 1,
        )  # fmt: skip
        tl.debug_barrier()
    _slopes(
        mass, edges, pairs, row, state, c, weight, factor, sentinels,
        n, GROUNDED, FULL, RELATIVE, BLOCK,
    )  # fmt: skip
    tl.debug_barrier()
    numbers = slope_numbers(pairs, state, c, exists, sentinels, n, GROUNDED, BLOCK)
    late: tl.constexpr = SCORED and not FULL
    if NORM_IN or late:
        sums.sum_in(
            z, grad, score, codes, state, pairs, partial, 0, c, exists, 0, tiles, norm, affine,
            out, numbers, steps, C, L, n, KIND, NORM_IN, NORM_OUT, late, BLOCK, ROWS, V, 1,
        )  # fmt: skip
        tl.debug_barrier()
    within = _within(partial, state, c, exists, norm, C, n, 1, NORM_IN, 1, 1)
    sums.finish(
        z, grad, score, codes, state, pairs, dz, c, exists, 0, tiles, norm, affine, out, numbers,
        within, steps, C, L, n, KIND, NORM_IN, NORM_OUT, BLOCK, ROWS, V, 1,
    )  # fmt: skip
    _hand_out(partial, grads, c, exists, C, 1, 1, NORM_IN, NORM_OUT, SCORED, 1, 1)
