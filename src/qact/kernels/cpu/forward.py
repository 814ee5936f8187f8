"""Norm -> quantile -> norm, one channel after the other, while it is in the cache."""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from qact.kernels.columns import (
    ABREAST,
    BINS,
    FINITE,
    IN_MEAN,
    IN_VAR,
    OFFSET,
    OUT_MEAN,
    OUT_VAR,
    STEPS,
    WIDTH,
)
from qact.kernels.cpu import steps as exact
from qact.kernels.cpu.follow import follow as move
from qact.kernels.cpu.follow import room_for
from qact.kernels.cpu.jit import inline, jit, owning
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.observe import count_row, observe, scratch, tabulate
from qact.kernels.cpu.rows import block, copy, fill, gather, interpolate, normalise, padded, scatter
from qact.kernels.cpu.table import lowest, table_moments

# What a rank becomes: one of `qact.kernels.cpu.table`'s kinds, and how many steps it has.
Level = namedtuple("Level", "kind steps")
# Scale and shift (C,) of the norm before, of the score, and of the norm after.
Affine = namedtuple("Affine", "in_weight in_bias weight bias out_weight out_bias")
# What the backward pass may be handed: ranks and levels, and the codes of steps.
Saved = namedtuple("Saved", "state tables codes")


@inline
def forward(first, last, z, rule, level, become, affine, eps, saved, context, rate, out):  # type: ignore[no-untyped-def]
    """Channels ``first ... last``; ``eps`` of both norms, negative for none.

    What a rank becomes, `smooth` or `step`, is compiled into it: few need both.
    The buffers of the running ``context`` move towards the batch if ``rate`` is positive.
    """
    outer, _, inner = z.single.shape
    n = outer * inner
    width, length = block(inner, n), padded(n)
    rows, goals = empty((width, length), np.float32), empty((width, length), np.float32)
    work, order = scratch(), exact.scratch(n if level.kind == STEPS else 0)
    room = room_for(context)
    for start in range(first, last, width):
        channels = min(width, last - start)
        gather(z, start, channels, rows)
        for c in range(start, start + channels):
            row, goal, state = rows[c - start][:n], goals[c - start][:n], saved.state[c]
            if state[FINITE] == ABREAST:
                for i in range(n):
                    goal[i] = out.single[i, c, 0]
                continue
            if not observe(row, affine.in_weight[c], affine.in_bias[c], eps[0], rule, state, work):
                fill(goal, np.nan)
                continue
            # Exact steps are found without the bins, which only a running context wants then.
            if level.kind != STEPS or rate > 0:
                count_row(row, state, work)
            become(row, rule, level, affine, c, eps[1], saved, work, order, goal)
            if rate > 0:
                move(work.hist, state, n, c, rate, context, room)
        scatter(goals, start, channels, out)


@owning
def follow(first, last, z, in_weight, in_bias, eps, states, context, rate):  # type: ignore[no-untyped-def]
    """Only the move of the running context, for channels whose ``states`` are known."""
    outer, _, inner = z.single.shape
    n = outer * inner
    width = block(inner, n)
    rows, work = empty((width, n), np.float32), scratch()
    room = room_for(context)
    for start in range(first, last, width):
        channels = min(width, last - start)
        gather(z, start, channels, rows)
        for c in range(start, start + channels):
            row, state = rows[c - start], states[c]
            if state[FINITE] != 0:
                if eps >= 0:
                    normalise(row, state[IN_MEAN], state[IN_VAR], eps, in_weight[c], in_bias[c])
                count_row(row, state, work)
                move(work.hist, state, n, c, rate, context, room)


@jit
def smooth(row, rule, level, affine, c, eps, saved, work, order, goal):  # type: ignore[no-untyped-def]
    """Interpolation in the table of levels, and the norm behind it."""
    state, table, n, kind = saved.state[c], work.table, row.size, level.kind
    tabulate(n, rule, kind, affine.weight[c], affine.bias[c], state, work)
    bins = int(state[BINS])
    # Kept for the backward pass where that is small, beside the input or by itself.
    if saved.tables.shape[1] >= 2 * bins + 4:
        copy(work.rise[: bins + 2], saved.tables[c])
        copy(table[: bins + 2], saved.tables[c, bins + 2 :])
    inverse, least = np.float32(1 / state[WIDTH]), lowest(kind)
    interpolate(row, inverse, int(state[OFFSET]), bins, table, least, work.cell, work.place, goal)
    if eps >= 0:
        # The norm's statistics come from the bins, so the outputs need not be read once more.
        mean, variance = table_moments(kind, work.hist, table, bins, n)
        state[OUT_MEAN], state[OUT_VAR] = mean, variance
        normalise(goal, mean, variance, eps, affine.out_weight[c], affine.out_bias[c])


@jit
def step(row, rule, level, affine, c, eps, saved, work, order, goal):  # type: ignore[no-untyped-def]
    """The exact level of every value, and the norm behind it."""
    state, codes = saved.state[c], saved.codes[c] if saved.codes.shape[1] else order.codes
    exact.rank_codes(row, work, rule, level.steps, state, order, codes)
    weight, bias = affine.weight[c] / np.float32(level.steps + 1), affine.bias[c]
    for i in range(goal.size):
        goal[i] = np.float32(codes[i]) * weight + bias
    if eps >= 0:
        first, second = exact.code_moments(codes)
        mean, variance = weight * first + bias, np.float64(weight) ** 2 * second
        state[OUT_MEAN], state[OUT_VAR] = mean, variance
        normalise(goal, mean, variance, eps, affine.out_weight[c], affine.out_bias[c])
