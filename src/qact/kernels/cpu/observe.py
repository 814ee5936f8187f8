"""What one row says of itself: norm, grid, bins, ranks and levels, in scratch memory."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from qact.kernels.columns import (
    BINS,
    CONTINUOUS,
    FINITE,
    IN_MEAN,
    IN_VAR,
    MEAN,
    MOST,
    NEGATIVE,
    OFFSET,
    STD,
    STEPS,
    TAPS,
    UNIFORM,
    WIDTH,
)
from qact.kernels.cpu.jit import jit, owning
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.rows import CHUNK, count, extent, fill, moments, negatives, normalise
from qact.kernels.cpu.table import (
    choose_grid,
    edge_masses,
    ground,
    level,
    ranks,
    side_weights,
    varies,
)

# What a rank is: `qact.rank.rule.Rule` as numbers.
Numbers = namedtuple("Numbers", "grounded absolute relative power sentinels full")
Work = namedtuple(
    "Work", "ends cell place packed hist edges kernel rise rank above tail score table"
)


@owning
def scratch():  # type: ignore[no-untyped-def]
    """Memory for one thread, used for one channel after the other."""
    size = MOST + 8
    return Work(
        empty(2, np.float32),
        empty(CHUNK, np.uint32),
        empty(CHUNK, np.float32),
        empty(CHUNK, np.int64),
        empty(size, np.int64),
        empty(size + 2 * TAPS, np.float32),
        empty(TAPS + 2, np.float32),
        empty(size, np.float32),
        empty(size, np.float64),
        empty(size, np.float64),
        empty(size, np.float32),
        empty(size, np.float32),
        empty(size, np.float32),
    )


@jit
def spoilt(state):  # type: ignore[no-untyped-def]
    """What is known of a row that holds values which are not finite: nothing, and False."""
    fill(state, np.nan)
    state[FINITE] = 0.0
    return False


@jit
def observe(row, weight, bias, eps, rule, state, work):  # type: ignore[no-untyped-def]
    """Norm, spread, sign and grid of a row into ``state``; whether all values are finite."""
    ends = work.ends
    if not extent(row, ends):
        return spoilt(state)
    state[FINITE] = 1.0
    mean, variance = moments(row)
    state[MEAN], state[STD] = mean, math.sqrt(variance)
    if eps >= 0:
        state[IN_MEAN], state[IN_VAR] = mean, variance
        state[MEAN], state[STD] = bias, abs(weight) * state[STD] / math.sqrt(variance + eps)
        normalise(row, mean, variance, eps, weight, bias)
        normalise(ends, mean, variance, eps, weight, bias)
        # A scale or shift that is not finite, or too large a one, spoils what no grid would hold.
        if not extent(ends, ends):
            spoilt(state)
            state[IN_MEAN], state[IN_VAR] = mean, variance
            return False
    state[NEGATIVE] = negatives(row)
    h = rule.absolute + rule.relative * state[STD] * row.size**rule.power
    if rule.relative > 0 and not varies(state[MEAN], state[STD]):
        h = 0.0
    choose_grid(ends[0], ends[1], row.size, h, rule.grounded, state)
    return True


@jit
def count_row(row, state, work):  # type: ignore[no-untyped-def]
    """The bins of a row, in ``work.hist``."""
    inverse, offset, bins = np.float32(1 / state[WIDTH]), int(state[OFFSET]), int(state[BINS])
    count(row, inverse, offset, bins, work.hist, work.cell, work.place, work.packed)


@jit
def tabulate(values, rule, kind, weight, bias, state, work):  # type: ignore[no-untyped-def]
    """Ranks and levels at the edges, from the bins; steps have the gradient of their rank."""
    negative, positive, low = side_weights(state, values, rule.grounded, rule.sentinels)
    edge_masses(work.hist, state, negative, positive, work.edges, work.tail)
    ranks(work.edges, state, low, work.kernel, work.rise, work.rank, work.above)
    if rule.grounded == CONTINUOUS:
        ground(values, rule.sentinels, state, work.rise, work.rank, work.above)
    bins, kind = int(state[BINS]), UNIFORM if kind == STEPS else kind
    level(
        kind,
        work.rank,
        work.above,
        bins,
        values,
        weight,
        bias,
        work.tail,
        work.score,
        work.table,
    )
