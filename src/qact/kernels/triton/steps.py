"""Exact step levels without a histogram: the level rises at order statistics.

With ties counted in full, ``#{i : z_i <= z}`` reaches ``c`` exactly when ``z`` reaches the ``c``-th
smallest value. So level ``j`` begins at one order statistic, and a search among these thresholds
gives every value its level. A channel is sorted in runs that fit into registers; in several runs
the ``c``-th smallest value is found bit by bit, by counting in each of them what is smaller.

Values are compared before the norm, whose rounding would tie some of them: its scale only says in
which order they come.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.constants import NEGATIVE, OUT_MEAN, OUT_VAR, STATE
from qact.kernels.triton.lookup import out_norm
from qact.kernels.triton.observe import sound
from qact.kernels.triton.tiles import channel, extent, given, tile

# Levels are kept as bytes.
LEVELS = tl.constexpr(256)
# The largest float32.
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _ordered(x, weight, NORM: tl.constexpr):
    """Numbers in the order of what the norm makes of ``x``, and no zero below another."""
    if NORM:
        x = x * tl.where(weight > 0, 1.0, tl.where(weight < 0, -1.0, 0.0))
    return tl.where(x == 0, 0.0, x)


@triton.jit
def sort_runs(
    z, ordered, c, first, last, in_weight, C, L, n,
    NORM_IN: tl.constexpr, RUN: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Runs ``first ... last`` of a channel into ``ordered`` (C, n), each of RUN values in order."""
    weight = given(in_weight, c, c >= 0, 1.0)
    for t in range(first, last):
        place, _, mask = tile(t, c, c >= 0, C, L, n, RUN // V, V, 1)
        x = _ordered(tl.load(z + place, mask=mask, other=0.0).to(tl.float32), weight, NORM_IN)
        # Not infinity: Triton 3.3 takes one of two by a product with zero, which would be NaN.
        x = tl.sort(tl.reshape(tl.where(mask, x, LARGEST), [RUN]))
        i = t * RUN + tl.arange(0, RUN)
        tl.store(ordered + c.to(tl.int64) * n + i, x, mask=i < n)


@triton.jit
def _key(x):
    """The integer whose order is that of a float32; the inverse of itself on bits."""
    return _bits(x.to(tl.int32, bitcast=True))


@triton.jit
def _bits(key):
    return key ^ ((key >> 31) & 0x7FFFFFFF)


@triton.jit
def _smaller(runs, low, high, key):
    """How many values of sorted ``runs`` are below ``key``; between ``low`` and ``high`` are."""
    width = tl.max(tl.max(high - low, 1), 0)
    while width > 0:
        middle, some = (low + high) >> 1, low < high
        less = some & (_key(tl.load(runs + middle, mask=some, other=0.0)) < key)
        low, high = tl.where(less, middle + 1, low), tl.where(some & ~less, middle, high)
        width = width >> 1
    return low


@triton.jit
def _positions(j, below, n, steps, SENTINELS: tl.constexpr, GROUNDED: tl.constexpr):
    """How many values must not exceed ``z`` for it to reach level ``j + 1``.

    The rank of ``c`` values is ``c / n``, or grounded ``(c + k) / 2 (n- + k)`` up to ``n-`` and
    ``1/2 + (c - n-) / 2 (n+ + k)`` beyond, with ``k`` sentinels a side.
    """
    rank = (j + 1).to(tl.float64) / (steps + 1)
    if GROUNDED == 0:
        position = tl.ceil(rank * n - 1e-9)
    else:
        below = rank * 0 + below.to(tl.float64)
        position = tl.ceil(2 * rank * (below + SENTINELS) - SENTINELS - 1e-9)
        beyond = tl.ceil((2 * rank - 1) * (n - below + SENTINELS) - 1e-9)
        beyond = below + tl.maximum(beyond, 1.0)
        position = tl.where((position > below) | (below == 0), beyond, position)
    return tl.minimum(tl.maximum(position, 1.0), n + 1.0).to(tl.int32)


@triton.jit
def select(
    ordered, found, reached, c, first, below, n, steps,
    SENTINELS: tl.constexpr, GROUNDED: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, MANY: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """Where levels ``first + 1 ... first + J`` begin, ``found`` (C, steps), and who is there.

    ``reached`` (C, steps) counts the values at and above. RUNS sorted runs are looked at side by
    side; if there are MANY more, time after time.
    """
    j, channels = first + tl.arange(0, J), ordered + c.to(tl.int64) * n
    position = _positions(j, below, n, steps, SENTINELS, GROUNDED)
    rank = tl.minimum(position, n)
    if RUNS == 1:
        key = _key(tl.load(channels + rank - 1))
        none = tl.zeros([J, 1], tl.int32)
        smaller = tl.sum(_smaller(channels, none, none + n, key[:, None]), 1)
    else:
        # The largest key that fewer than ``rank`` values are below, from its leading bit on.
        key, smaller = tl.full([J], -(1 << 31), tl.int32), tl.zeros([J], tl.int32)
        low = tl.zeros([J, RUNS], tl.int32)
        high = low + _sizes(0, n, RUN, RUNS)
        for bit in range(0, 32):
            guess = key ^ (tl.cast(1, tl.int64) << (31 - bit)).to(tl.int32)
            count, at = smaller * 0, low
            for run in range(0, tl.cdiv(n, RUN) if MANY else 1, RUNS):
                if MANY:
                    low, high = low * 0, low * 0 + _sizes(run, n, RUN, RUNS)
                start = (run + tl.arange(0, RUNS)) * RUN
                at = _smaller(channels + start[None, :], low, high, guess[:, None])
                count += tl.sum(at, 1)
            take = count < rank
            key, smaller = tl.where(take, guess, key), tl.where(take, count, smaller)
            low = tl.where(take[:, None], at, low)
            high = tl.where(take[:, None], high, at)
    value = _bits(key).to(tl.float32, bitcast=True)
    there = position <= n
    at = c.to(tl.int64) * steps + j
    tl.store(found + at, tl.where(there, value, float("inf")), mask=j < steps)
    tl.store(reached + at, tl.where(there, n - smaller, 0), mask=j < steps)


@triton.jit
def _sizes(run, n, RUN: tl.constexpr, RUNS: tl.constexpr):
    """How many values runs ``run ... run + RUNS`` have, (1, RUNS)."""
    start = (run + tl.arange(0, RUNS)) * RUN
    return tl.minimum(tl.maximum(n - start, 0), RUN)[None, :]


@triton.jit
def moments(reached, state, c, weight, bias, n, steps):
    """Mean and variance of a channel's levels into ``state``: sums of integers, exact.

    If ``N_j`` values reach level ``j``, the levels sum up to ``sum_j N_j`` and their squares to
    ``sum_j (2 j - 1) N_j``.
    """
    j = tl.arange(0, LEVELS)
    many = tl.load(reached + c.to(tl.int64) * steps + j, mask=j < steps, other=0).to(tl.int64)
    mean = tl.sum(many, 0).to(tl.float64) / n
    square = tl.sum(many * (2 * j + 1), 0).to(tl.float64) / n
    scale = given(weight, c, c >= 0, 1.0).to(tl.float64) / (steps + 1)
    at = state + c * STATE
    tl.store(at + OUT_MEAN, mean * scale + given(bias, c, c >= 0, 0.0).to(tl.float64))
    tl.store(at + OUT_VAR, tl.maximum(square - mean * mean, 0.0) * scale * scale)


@triton.jit
def assign_tiles(
    z, out, found, codes, state, c, exists, first, last, in_weight, weight, bias, out_weight,
    out_bias, eps_out, steps, C, L, n,
    NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The level that each value has reached, ``codes`` (C, n) if given, and the norm behind."""
    out_mean, out_scale = out_norm(state, c, exists, eps_out, NORM_OUT)
    order, fine = given(in_weight, c, exists, 1.0), sound(state, c, exists)
    w, b = given(weight, c, exists, 1.0) / (steps + 1.0), given(bias, c, exists, 0.0)
    w_out, b_out = given(out_weight, c, exists, 1.0), given(out_bias, c, exists, 0.0)
    thresholds, row = found + c.to(tl.int64) * steps, c.to(tl.int64) * n
    for t in range(first, last):
        place, index, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
        x = tl.load(z + place, mask=mask & fine, other=0.0).to(tl.float32)
        code = _search(thresholds, _ordered(x, order, NORM_IN), steps, index)
        if codes is not None:
            tl.store(codes + row + index, code.to(tl.uint8), mask=mask)
        value = code.to(tl.float32) * w + b
        if NORM_OUT:
            value = (value - out_mean) * out_scale * w_out + b_out
        value = tl.where(fine, value, float("nan"))
        tl.store(out + place, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _search(threshold, y, steps, index):
    """How many of ``steps`` (255 at most) ascending thresholds ``y`` has reached."""
    low, high = index * 0, index * 0 + steps
    for _ in tl.static_range(8):
        middle = (low + high) >> 1
        open_ = low < high
        at = tl.load(threshold + middle, mask=open_, other=0.0)
        up = open_ & (at <= y)
        high = tl.where(open_ & (at > y), middle, high)
        low = tl.where(up, middle + 1, low)
    return low


@triton.jit
def sort(
    z, ordered, in_weight, C, L, n,
    NORM_IN: tl.constexpr, RUN: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """One run of a channel for every program."""
    c, t = tl.program_id(0), tl.program_id(1)
    sort_runs(z, ordered, c, t, t + 1, in_weight, C, L, n, NORM_IN, RUN, V)


@triton.jit
def begin(
    ordered, found, reached, parts, C, n, steps, S,
    SENTINELS: tl.constexpr, GROUNDED: tl.constexpr, BLOCK: tl.constexpr,
    RUN: tl.constexpr, RUNS: tl.constexpr, MANY: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """Where J levels of a channel begin; ``S`` programs have counted what is negative."""
    c, below = tl.program_id(0), tl.program_id(0).to(tl.int64) * 0
    for s in range(0, S):
        below += tl.load(parts + (tl.cast(s, tl.int64) * C + c) * BLOCK + BLOCK - 1)
    select(
        ordered, found, reached, c, tl.program_id(1) * J, below, n, steps,
        SENTINELS, GROUNDED, RUN, RUNS, MANY, J,
    )  # fmt: skip


@triton.jit
def assign(
    z, out, found, codes, state, in_weight, weight, bias, out_weight, out_bias, eps_out, steps,
    C, L, n, per,
    NORM_IN: tl.constexpr, NORM_OUT: tl.constexpr,
    ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The last pass: the output."""
    c, exists = channel(C, K)
    _, first, last = extent(per, n, ROWS, V)
    assign_tiles(
        z, out, found, codes, state, c, exists, first, last, in_weight, weight, bias, out_weight,
        out_bias, eps_out, steps, C, L, n, NORM_IN, NORM_OUT, ROWS, V, K,
    )  # fmt: skip


@triton.jit
def conclude(
    bins, reached, state, c, weight, bias, n, steps, NORM_OUT: tl.constexpr, BLOCK: tl.constexpr
):
    """What a state says of steps: how many values are negative, and the moments behind."""
    negative = tl.load(bins + BLOCK - 1, cache_modifier=".cg")
    tl.store(state + c * STATE + NEGATIVE, negative.to(tl.float64))
    if NORM_OUT:
        moments(reached, state, c, weight, bias, n, steps)
