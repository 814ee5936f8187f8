"""Norm -> quantile -> norm: four launches that share channels out, or one program for each."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton import observe
from qact.kernels.triton.lookup import look_up
from qact.kernels.triton.table import tabulate
from qact.kernels.triton.tiles import channel


@triton.jit
def measure(z, parts, C, L, n, per, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr):
    """The first pass: statistics of ``per`` tiles into ``parts`` (programs, 6, C)."""
    c, exists = channel(C, K)
    s = tl.program_id(1)
    last = tl.minimum((s + 1) * per, tl.cdiv(n, ROWS * V))
    seen = observe.measure(z, c, exists, s * per, last, C, L, n, ROWS, V, K)
    observe.hand_on(parts, s, c, exists, C, *seen)


@triton.jit
def count(
    z, parts, hist, state, rows, in_weight, in_bias, eps_in, absolute, factor, C, L, n, per, S,
    NORM_IN: tl.constexpr, GROUNDED: tl.constexpr, RELATIVE: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The second pass: the state of a channel, and its bins ``hist`` (C, BLOCK), zero before."""
    c, exists = channel(C, K)
    seen = observe.gather(parts, c, C, n, S, SPLITS, K)
    # Every program of a channel comes to the same state and writes it.
    observe.settle(
        state, c, exists, *seen, in_weight, in_bias, eps_in, absolute, factor, n,
        NORM_IN, GROUNDED, RELATIVE, BLOCK - 2, K,
    )  # fmt: skip
    tl.debug_barrier()
    s = tl.program_id(1)
    last = tl.minimum((s + 1) * per, tl.cdiv(n, ROWS * V))
    observe.count(
        z, hist, state, rows, c, exists, s * per, last, in_weight, in_bias, eps_in, C, L, n,
        NORM_IN, BLOCK, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def recount(
    z, hist, state, in_weight, in_bias, eps_in, C, L, n, per,
    NORM_IN: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The bins of a channel whose state is known."""
    c, exists = channel(C, K)
    s = tl.program_id(1)
    last = tl.minimum((s + 1) * per, tl.cdiv(n, ROWS * V))
    observe.count(
        z, hist, state, None, c, exists, s * per, last, in_weight, in_bias, eps_in, C, L, n,
        NORM_IN, BLOCK, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def table(
    hist, tables, span, state, weight, bias, sentinels, n,
    KIND: tl.constexpr, GROUNDED: tl.constexpr, NORM_OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Steps of the rank, and scores, in ``span`` numbers of ``tables``; one channel a program."""
    c = tl.program_id(0)
    row = tables + c.to(tl.int64) * span
    tabulate(
        hist + c.to(tl.int64) * BLOCK, row, row + BLOCK, state, c, weight, bias, sentinels, n,
        KIND, GROUNDED, NORM_OUT, BLOCK,
    )  # fmt: skip


@triton.jit
def lookup(
    z, out, tables, span, state, in_weight, in_bias, weight, bias, out_weight, out_bias,
    eps_in, eps_out, C, L, n, per,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The third pass: the output."""
    c, exists = channel(C, K)
    score = tables + c.to(tl.int64) * span + BLOCK
    s = tl.program_id(1)
    last = tl.minimum((s + 1) * per, tl.cdiv(n, ROWS * V))
    look_up(
        z, out, score, state, c, exists, s * per, last, in_weight, in_bias, weight, bias,
        out_weight, out_bias, eps_in, eps_out, C, L, n,
        KIND, NORM_IN, NORM_OUT, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def whole(
    z, out, hist, tables, span, state, in_weight, in_bias, weight, bias, out_weight, out_bias,
    eps_in, eps_out, absolute, factor, sentinels, C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, GROUNDED: tl.constexpr,
    RELATIVE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """All passes over one channel; what one writes the next reads behind a barrier."""
    c, exists = channel(C, 1)
    tiles = tl.cdiv(n, ROWS * V)
    bins = hist + c.to(tl.int64) * BLOCK
    tl.store(bins + tl.arange(0, BLOCK), tl.zeros([BLOCK], tl.int64))
    _, mean, square, low, high, bits = observe.measure(z, c, exists, 0, tiles, C, L, n, ROWS, V, 1)
    observe.settle(
        state, c, exists, mean, square, low, high, bits, in_weight, in_bias, eps_in, absolute,
        factor, n, NORM_IN, GROUNDED, RELATIVE, BLOCK - 2, 1,
    )  # fmt: skip
    tl.debug_barrier()
    observe.count(
        z, hist, state, None, c, exists, 0, tiles, in_weight, in_bias, eps_in, C, L, n,
        NORM_IN, BLOCK, ROWS, V, 1,
    )  # fmt: skip
    tl.debug_barrier()
    row = tables + c.to(tl.int64) * span
    tabulate(
        bins, row, row + BLOCK, state, c, weight, bias, sentinels, n,
        KIND, GROUNDED, NORM_OUT, BLOCK,
    )  # fmt: skip
    tl.debug_barrier()
    look_up(
        z, out, row + BLOCK, state, c, exists, 0, tiles, in_weight, in_bias, weight, bias,
        out_weight, out_bias, eps_in, eps_out, C, L, n,
        KIND, NORM_IN, NORM_OUT, ROWS, V, 1,
    )  # fmt: skip
