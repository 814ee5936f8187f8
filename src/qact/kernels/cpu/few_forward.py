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
    KEPT,
    LEAST,
    LIMIT,
    SCALE,
    SHIFT,
    SLOPE,
    SQUARE,
    TOTAL,
    count,
    fetch_rows,
    kept_at,
    read,
    scratch,
    set_blank,
    set_grid,
    set_norm,
    set_weights,
    tabulate,
    write,
)
from qact.kernels.cpu.follow import move, room_for
from qact.kernels.cpu.indexed import gathered_pairs
from qact.kernels.cpu.jit import exact, owning
from qact.kernels.cpu.lanes import (
    LANES,
    bits,
    every,
    larger,
    load,
    number,
    repeat,
    smaller,
    store,
    transpose,
)
from qact.kernels.cpu.rows import copy
from qact.kernels.cpu.table import choose_grid, varies


@owning
def forward(first, last, z, rule, kind, affine, eps, states, kept, context, rate, out):  # type: ignore[no-untyped-def]
    """Channels ``first ... last`` of ``z`` (N, C); whether some were left to others."""
    n, left = z.shape[0], False
    few, room, power = scratch(n), room_for(context), n**rule.power
    for start in range(first, last, LANES):
        channels, bins, done = min(LANES, last - start), 0, 0
        read(z, start, channels, few.x)
        _measure(few.x, few.own)
        for j in range(LANES):
            taken = 0
            if j < channels:
                taken = _prepare(j, start + j, n, power, rule, affine, eps, states, few.own)
            if taken == 0:
                set_blank(j, few.own)
            bins, done = max(bins, taken), done + (taken > 0)
        left |= done < channels
        if done == 0:
            continue
        fetch_rows(out, start)
        count(bins, few)
        for j in range(channels):
            if states[start + j, FINITE] == ABREAST:
                set_weights(j, states[start + j], n, rule, few.own)
        tabulate(bins, n, kind, few)
        _look_up(start, channels, kind, few, out)
        if done == channels:
            _keep(start, channels, bins, z, states, kept, few)
        if rate > 0:
            _turn(few.hist, bins + 1)
            for j in range(channels):
                c, state = start + j, states[start + j]
                if state[FINITE] == ABREAST:
                    _unpack(few.hist, j, int(state[BINS]) + 1, room)
                    move(int(state[BINS]) + 1, state, n, c, rate, context, room)
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
def _keep(start, channels, bins, z, states, kept, few):  # type: ignore[no-untyped-def]
    """Rises and levels at the edges for the backward pass, where there is room for them."""
    at, size = kept_at(start, channels, bins, z, kept), LANES * (bins + 2)
    if at >= 0:
        copy(few.rise[:size], kept[at : at + size])
        copy(few.table[:size], kept[at + size : at + 2 * size])
        for j in range(channels):
            states[start + j, KEPT] = 1 + j


@exact
def _turn(columns, rows):  # type: ignore[no-untyped-def]
    """Rows of sixteen lanes become, sixteen by sixteen, sixteen numbers of each lane."""
    for k in range(0, LANES * rows, LANES * LANES):
        transpose(columns[k : k + LANES * LANES])


@exact
def _unpack(tiles, j, size, room):  # type: ignore[no-untyped-def]
    """What the bins of lane ``j`` hold, transposed."""
    shift, low = repeat(np.int32(COUNTS)), repeat(np.int32((1 << COUNTS) - 1))
    part = every(1 / PARTS)
    for k in range(0, size, LANES):
        packed = bits(load(tiles, LANES * (k + j)))
        store(room.counts, k, number(packed >> shift))
        store(room.places, k, number(packed & low) * part)
