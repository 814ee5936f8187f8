"""Norm -> quantile -> norm: launches that share channels out, or one program for each.

``followed`` are the buffers and numbers that `qact.kernels.triton.follow.follow` takes behind the
channel, or none. Pointers ``parts`` go to what programs hand on, one row of channels for each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton import observe
from qact.kernels.triton.bins import join
from qact.kernels.triton.constants import BINS, STATE, STEPS
from qact.kernels.triton.follow import follow
from qact.kernels.triton.lookup import look_up
from qact.kernels.triton.steps import assign_tiles, conclude, select, sort_runs
from qact.kernels.triton.table import scores, tabulate
from qact.kernels.triton.tiles import channel, extent


@triton.jit
def measure(z, parts, C, L, n, per, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr):
    """The first pass: statistics of ``per`` tiles into ``parts`` (programs, 6, C)."""
    c, exists = channel(C, K)
    s, first, last = extent(per, n, ROWS, V)
    seen = observe.measure(z, c, exists, first, last, C, L, n, ROWS, V, K)
    observe.hand_on(parts, s, c, exists, C, *seen)


@triton.jit
def count(
    z, seen, parts, state, in_weight, in_bias, eps_in, absolute, factor, C, L, n, per, S,
    NORM_IN: tl.constexpr, GROUNDED: tl.constexpr, RELATIVE: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The second pass: the state of a channel by what ``S`` programs have ``seen``, and its bins.

    ``parts`` (programs, C, BLOCK); without ``seen`` the state is known.
    """
    c, exists = channel(C, K)
    if seen is not None:
        # Every program of a channel comes to the same state and writes it.
        observe.settle(
            state, c, exists, *observe.gather(seen, c, C, n, S, SPLITS, K), in_weight, in_bias,
            eps_in, absolute, factor, n, NORM_IN, GROUNDED, RELATIVE, BLOCK - 2, K,
        )  # fmt: skip
        tl.debug_barrier()
    s, first, last = extent(per, n, ROWS, V)
    observe.count(
        z, parts + s.to(tl.int64) * C * BLOCK, state, c, exists, first, last,
        in_weight, in_bias, eps_in, C, L, n, NORM_IN, BLOCK, SPAN, HISTOGRAM, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def table(
    parts, tables, span, state, weight, bias, sentinels, reached, steps, followed, C, n, S,
    KIND: tl.constexpr, GROUNDED: tl.constexpr, NORM_OUT: tl.constexpr, BLOCK: tl.constexpr,
    COUNTED: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Bins of all programs together; steps of the rank, and scores, in ``tables``.

    One channel a program, ``span`` numbers of tables each. Step levels bring how many values have
    ``reached`` them in their place; without either only what follows is moved.
    """
    c = tl.program_id(0)
    bins = parts + c.to(tl.int64) * BLOCK
    k = tl.arange(0, BLOCK)
    most = tl.load(state + c * STATE + BINS).to(tl.int32)
    join(bins, tl.cast(C, tl.int64) * BLOCK, S, k, (k <= most) | (k == BLOCK - 1))
    if tables is not None:
        tabulate(
            bins, tables + c.to(tl.int64) * span, None, 0, state, c, weight, bias, sentinels, n,
            KIND, GROUNDED, NORM_OUT, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
    if reached is not None:
        conclude(bins, reached, state, c, weight, bias, n, steps, NORM_OUT, BLOCK)
        tl.debug_barrier()
    if followed is not None:
        follow(bins, state, c, n, C, *followed, COUNTED, CELLS, BLOCK)


@triton.jit
def lookup(
    z, out, tables, span, state, in_weight, in_bias, weight, bias, out_weight, out_bias,
    eps_in, eps_out, C, L, n, per,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The third pass: the output."""
    c, exists = channel(C, K)
    score = scores(tables + c.to(tl.int64) * span, state, c, exists)
    _, first, last = extent(per, n, ROWS, V)
    look_up(
        z, out, score, state, c, exists, first, last, in_weight, in_bias, weight, bias,
        out_weight, out_bias, eps_in, eps_out, C, L, n,
        KIND, NORM_IN, NORM_OUT, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def whole(
    z, out, hist, tables, span, kept, room, ordered, found, reached, codes, state,
    in_weight, in_bias, weight, bias, out_weight, out_bias,
    eps_in, eps_out, absolute, factor, sentinels, steps, followed, C, L, n,
    KIND: tl.constexpr, NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr, GROUNDED: tl.constexpr,
    RELATIVE: tl.constexpr, BLOCK: tl.constexpr, COUNTED: tl.constexpr, CELLS: tl.constexpr,
    SENTINELS: tl.constexpr, RUN: tl.constexpr, RUNS: tl.constexpr, J: tl.constexpr,
    SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
    ROWS: tl.constexpr, FINE: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """All passes over one channel; what one writes the next reads behind a barrier.

    Smooth levels need ``tables``, and put them into the ``room`` of ``kept`` besides; step levels
    need ``ordered``, ``found`` and ``reached``, and leave ``codes``.
    """
    c, exists = channel(C, 1)
    tiles = tl.cdiv(n, ROWS * V)
    bins = hist + c.to(tl.int64) * BLOCK
    _, mean, square, low, high, finite = observe.measure(
        z, c, exists, 0, tiles, C, L, n, ROWS, V, 1
    )
    observe.settle(
        state, c, exists, mean, square, low, high, finite, in_weight, in_bias, eps_in, absolute,
        factor, n, NORM_IN, GROUNDED, RELATIVE, BLOCK - 2, 1,
    )  # fmt: skip
    tl.debug_barrier()
    observe.count(
        z, hist, state, c, exists, 0, tl.cdiv(n, FINE * V), in_weight, in_bias, eps_in,
        C, L, n, NORM_IN, BLOCK, SPAN, HISTOGRAM, FINE, V, 1,
    )  # fmt: skip
    tl.debug_barrier()
    if KIND == STEPS:
        sort_runs(z, ordered, c, 0, tl.cdiv(n, RUN), in_weight, C, L, n, NORM_IN, RUN, V)
        tl.debug_barrier()
        below = tl.load(bins + BLOCK - 1, cache_modifier=".cg")
        for first in range(0, steps, J):
            select(
                ordered, found, reached, c, first, below, n, steps,
                SENTINELS, GROUNDED, RUN, RUNS, False, J,
            )  # fmt: skip
        tl.debug_barrier()
        conclude(bins, reached, state, c, weight, bias, n, steps, NORM_OUT, BLOCK)
        tl.debug_barrier()
        assign_tiles(
            z, out, found, codes, state, c, exists, 0, tiles, in_weight, weight, bias, out_weight,
            out_bias, eps_out, steps, C, L, n, NORM_IN, NORM_OUT, ROWS, V, 1,
        )  # fmt: skip
    else:
        row = tables + c.to(tl.int64) * span
        tabulate(
            bins, row, kept, room, state, c, weight, bias, sentinels, n,
            KIND, GROUNDED, NORM_OUT, BLOCK,
        )  # fmt: skip
        tl.debug_barrier()
        look_up(
            z, out, scores(row, state, c, exists), state, c, exists, 0, tiles, in_weight, in_bias,
            weight, bias, out_weight, out_bias, eps_in, eps_out, C, L, n,
            KIND, NORM_IN, NORM_OUT, ROWS, V, 1,
        )  # fmt: skip
    if followed is not None:
        follow(bins, state, c, n, C, *followed, COUNTED, CELLS, BLOCK)
