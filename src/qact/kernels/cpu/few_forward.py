"""Norm and quantile of channels of few values, sixteen side by side; see `qact.kernels.cpu.few`."""

from __future__ import annotations

import math

import numpy as np

from qact.kernels.columns import ABREAST, BINS, FINITE, IN_MEAN, IN_VAR, MEAN, PARTS, RELU, STD
from qact.kernels.cpu.few import (
    BAD,
    CENTRE,
    COUNTS,
    GAPS,
    GREATEST,
    LEAST,
    LIMIT,
    SCALE,
    SHIFT,
    SLOPE,
    SQUARE,
    TOTAL,
    count,
    read,
    scratch,
    set_blank,
    set_grid,
    set_norm,
    set_weights,
    tabulate,
    turn,
    write,
)
from qact.kernels.cpu.follow import move, room_for
from qact.kernels.cpu.jit import exact
from qact.kernels.cpu.lanes import (
    LANES,
    bits,
    every,
    gathered_pairs,
    larger,
    load,
    number,
    repeat,
    smaller,
    store,
)
from qact.kernels.cpu.table import choose_grid, varies


@exact
def forward(first, last, z, rule, kind, affine, eps, saved, context, rate, out):  # type: ignore[no-untyped-def]
    """Channels ``first ... last`` of ``z`` (N, C); whether some were left to others."""
    n, left = z.shape[0], False
    few, room, power = scratch(n), room_for(context), n**rule.power
    for start in range(first, last, LANES):
        channels = min(LANES, last - start)
        read(z, start, channels, few.x)
        _measure(few.x, few.own)
        bins = 0
        for j in range(LANES):
            taken = 0
            if j < channels:
                taken = _prepare(j, start + j, n, power, rule, affine, eps, saved.state, few.own)
                left |= taken == 0
            if taken == 0:
                set_blank(j, few.own)
            bins = max(bins, taken)
        if bins == 0:
            continue
        count(bins, few)
        for j in range(channels):
            if saved.state[start + j, FINITE] == ABREAST:
                set_weights(j, saved.state[start + j], n, rule, few.own)
        tabulate(bins, n, kind, few)
        _look_up(start, channels, kind, few, out)
        if rate > 0:
            turn(few.hist, bins + 1)
        turn(few.rise, bins + 2)
        turn(few.table, bins + 2)
        for j in range(channels):
            c, state = start + j, saved.state[start + j]
            if state[FINITE] == ABREAST:
                own = int(state[BINS])
                if saved.tables.shape[1] >= 2 * own + 4:
                    _take(few.rise, j, saved.tables[c, : own + 2])
                    _take(few.table, j, saved.tables[c, own + 2 : 2 * own + 4])
                if rate > 0:
                    _unpack(few.hist, j, own + 1, room)
                    move(own + 1, state, n, c, rate, context, room)
    return left


@exact
def _measure(x, own):  # type: ignore[no-untyped-def]
    """Sum, extremes and squares, and what is not finite."""
    zero = every(0)
    total, bad, low, high = zero, zero, load(x, 0), load(x, 0)
    for i in range(0, x.size, LANES):
        value = load(x, i)
        total, bad = total + value, bad + (value - value)
        low, high = smaller(value, low), larger(value, high)
    centre = total * every(LANES / x.size)
    square, gaps = zero, zero
    for i in range(0, x.size, LANES):
        gap = load(x, i) - centre
        square, gaps = square + gap * gap, gaps + gap
    store(own, TOTAL, total)
    store(own, BAD, bad)
    store(own, LEAST, low)
    store(own, GREATEST, high)
    store(own, CENTRE, centre)
    store(own, SQUARE, square)
    store(own, GAPS, gaps)


@exact
def _prepare(j, c, n, power, rule, affine, eps, states, own):  # type: ignore[no-untyped-def]
    """Norm and grid of channel ``c`` in lane ``j``; how many bins, or 0 if it is left to others."""
    square, total, state = own[SQUARE + j], own[TOTAL + j], states[c]
    sound = own[BAD + j] == 0 and abs(total) < 1e38 and 1e-30 * n < square < 1e38
    if not sound or affine.weight[c] == 0:
        return 0
    gap = np.float64(own[GAPS + j]) / n
    mean = own[CENTRE + j] + gap
    variance = max(np.float64(square) / n - gap * gap, 0.0)
    state[MEAN], state[STD] = mean, math.sqrt(variance)
    state[IN_MEAN], state[IN_VAR] = mean, variance
    if eps[0] >= 0:
        scale = 1 / math.sqrt(variance + eps[0])
        state[MEAN] = affine.in_bias[c]
        state[STD] = abs(affine.in_weight[c]) * scale * state[STD]
    set_norm(j, c, affine, eps, state, own)
    low = (own[LEAST + j] - own[CENTRE + j]) * own[SCALE + j] * own[SLOPE + j] + own[SHIFT + j]
    high = (own[GREATEST + j] - own[CENTRE + j]) * own[SCALE + j] * own[SLOPE + j] + own[SHIFT + j]
    low, high = min(low, high), max(low, high)
    if not -1e38 < low <= high < 1e38:
        return 0
    if rule.relative > 0 and not varies(state[MEAN], state[STD]):
        return 0
    h = rule.absolute + rule.relative * state[STD] * power
    choose_grid(low, high, n, h, rule.grounded, state)
    if state[BINS] > LIMIT:
        return 0
    set_grid(j, c, affine, state, own)
    state[FINITE] = ABREAST
    return int(state[BINS])


@exact
def _look_up(start, channels, kind, few, out):  # type: ignore[no-untyped-def]
    """Every value's level, into ``out``."""
    bottom = every(0.0 if kind == RELU else -np.inf)
    for i in range(0, few.at.size, LANES):
        left, rise = gathered_pairs(few.pairs, bits(load(few.at, i)))
        value = larger(left + load(few.place, i) * rise, bottom)
        write(value, start, channels, few.x, out[i // LANES])


@exact
def _take(tiles, j, to):  # type: ignore[no-untyped-def]
    """The numbers of lane ``j``, transposed."""
    for k in range(0, to.size, LANES):
        at = LANES * (k + j)
        if k + LANES <= to.size:
            store(to, k, load(tiles, at))
        else:
            for i in range(to.size - k):
                to[k + i] = tiles[at + i]


@exact
def _unpack(tiles, j, size, room):  # type: ignore[no-untyped-def]
    """What the bins of lane ``j`` hold, transposed."""
    shift, low = repeat(np.int32(COUNTS)), repeat(np.int32((1 << COUNTS) - 1))
    part = every(1 / PARTS)
    for k in range(0, size, LANES):
        packed = bits(load(tiles, LANES * (k + j)))
        store(room.counts, k, number(packed >> shift))
        store(room.places, k, number(packed & low) * part)
