"""Its gradient: `qact.kernels.cpu.backward` for sixteen channels side by side."""

from __future__ import annotations

import numpy as np

from qact.kernels.columns import (
    ABREAST,
    BANDWIDTH,
    BINS,
    FINITE,
    MEAN,
    NEGATIVE,
    OFFSET,
    RELU,
    STD,
    WIDTH,
)
from qact.kernels.cpu.few import (
    ALONG,
    BIAS,
    CENTRE,
    CUT,
    HIGH,
    INVERSE,
    KEPT,
    LOW,
    MIDDLE,
    NEGATIVES,
    OVER,
    PAD,
    PULL,
    SCALE,
    SHIFT,
    SLOPE,
    TOTAL,
    TOWARDS,
    UNDER,
    WEIGHT,
    ZERO,
    convolve,
    count,
    fetch_rows,
    kept_at,
    lines,
    locate,
    read,
    scratch,
    set_blank,
    set_grid,
    set_norm,
    set_weights,
    tabulate,
    taps,
    write,
)
from qact.kernels.cpu.indexed import add_pairs, gathered_pairs, load_pairs, store_pairs
from qact.kernels.cpu.jit import exact, owning
from qact.kernels.cpu.lanes import (
    LANES,
    below,
    bits,
    chosen,
    every,
    floor,
    larger,
    load,
    pattern,
    place_of,
    smaller,
    store,
    whole,
)
from qact.kernels.cpu.rows import copy, fill
from qact.kernels.cpu.table import between


@owning
def backward(first, last, z, grad, rule, kind, affine, eps, states, tables, grads, out):  # type: ignore[no-untyped-def]
    """The gradient as `qact.kernels.cpu.backward` has it; whether some were left to others."""
    n, left = z.shape[0], False
    few, power = scratch(n), n**rule.power
    score, slopes = lines(few.x.size), lines(few.x.size)
    for start in range(first, last, LANES):
        channels, bins, kept = min(LANES, last - start), 0, True
        for j in range(LANES):
            c = start + j
            if j < channels and states[c, FINITE] == ABREAST:
                bins = max(bins, _resume(j, c, n, rule, affine, eps, states, few.own))
                # Under a transform of torch.func channels may stand beside others than before.
                kept &= states[c, KEPT] == 1 + j
            else:
                kept &= j >= channels
                left |= j < channels
                set_blank(j, few.own)
        if bins == 0:
            continue
        read(z, start, channels, few.x)
        read(grad, start, channels, slopes)
        if kept:
            at, size = kept_at(start, channels, bins, z, tables), LANES * (bins + 2)
            copy(tables[at : at + size], few.rise)
            copy(tables[at + size : at + 2 * size], few.table)
        else:
            count(bins, few)
            tabulate(bins, n, kind, few)
        _crossings(start, channels, bins, kind, states, affine, few)
        _spread(bins, kind, few, score, slopes)
        _edge_grads(bins, few)
        reach = taps(few.own, few.kernel)
        convolve(few.edges, bins, few.kernel, reach, few.rank)
        for j in range(channels):
            if states[start + j, FINITE] == ABREAST:
                _settle(j, start + j, n, power, rule, states, few.own, grads)
        fetch_rows(out, start)
        _slopes(bins, rule.full, few)
        _descend(bins, few, score, slopes)
        _finish(start, channels, eps[0] >= 0, few, score, slopes, out)
        for j in range(channels):
            c = start + j
            if states[c, FINITE] == ABREAST and eps[0] >= 0:
                grads[0, c], grads[1, c] = few.own[ALONG + j], few.own[TOTAL + j]
    return left


@exact
def _resume(j, c, n, rule, affine, eps, states, own):  # type: ignore[no-untyped-def]
    """The numbers of channel ``c`` in lane ``j`` once more; how many bins."""
    state = states[c]
    set_norm(j, c, affine, eps, state, own)
    set_grid(j, c, affine, state, own)
    own[NEGATIVES + j] = state[NEGATIVE]
    set_weights(j, state, n, rule, own)
    own[MIDDLE + j] = state[MEAN]
    return int(state[BINS])


@exact
def _crossings(start, channels, bins, kind, states, affine, few):  # type: ignore[no-untyped-def]
    """Where a ReLU's level crosses zero: what is on the wrong side of it passes no gradient."""
    own, table, positive, zero, one = few.own, few.table, every(0), every(0), every(1)
    if kind == RELU:  # how many edges are above zero says where, since levels rise or fall
        for k in range(0, LANES * (bins + 1), LANES):
            positive += chosen(below(zero, load(table, k)), one, zero)
    store(own, CUT, positive)
    store(own, TOWARDS, zero)
    for j in range(channels):
        state = states[start + j]
        if kind == RELU and state[FINITE] == ABREAST:
            upright, above = affine.weight[start + j] > 0, int(own[CUT + j])
            low = bins + 1 - above if upright else above
            cut = np.float32(-np.inf if low == 0 else np.inf)
            if 0 < low <= bins:
                before, after = table[LANES * (low - 1) + j], table[LANES * low + j]
                cut = between(before, after, int(state[OFFSET]) + low - 1, upright)
            sign = np.float32(1 if upright else -1)
            own[CUT + j], own[TOWARDS + j] = sign * cut, sign * own[INVERSE + j]


@exact
def _spread(bins, kind, few, score, slopes):  # type: ignore[no-untyped-def]
    """The histogram of gradients: per bin the sum of ``g``, and of ``g`` times the place."""
    own, mass, zero = few.own, few.pairs, every(0)
    centre, scale = load(own, CENTRE), load(own, SCALE)
    slope, shift = load(own, SLOPE), load(own, SHIFT)
    towards, cut = load(own, TOWARDS), load(own, CUT)
    fill(mass[: 2 * LANES * (bins + 2)], 0)
    for i in range(0, few.x.size, LANES):
        s = (load(few.x, i) - centre) * scale
        value, g = s * slope + shift, load(slopes, i)
        if kind == RELU:
            g = chosen(below(cut, value * towards), g, zero)
        at, place = locate(value, own)
        add_pairs(mass, at, g, g * place)
        store(slopes, i, g)
        store(score, i, s)
        store(few.x, i, value)


@exact
def _edge_grads(bins, few):  # type: ignore[no-untyped-def]
    """What each edge's rank passes on, and the gradients of score and bandwidth."""
    own, mass, rise, table, zero = few.own, few.pairs, few.rise, few.table, every(0)
    tiny, bias = every(1e-30), load(own, BIAS)
    total = scale = bandwidth = carried = zero
    last = load(own, HIGH) - load(own, LOW)
    for k in range(bins + 1):
        i = LANES * k
        both, right = load_pairs(mass, 2 * i)
        g, carried = both - right + carried, right
        level = load(table, i)
        total += g
        scale += g * (level - bias)
        before, after = load(rise, i), load(rise, i + LANES)
        risen = load(table, i + LANES) - load(table, max(i - LANES, 0))
        slope = risen / larger(before + after, tiny)
        # Outermost bins are empty.
        inside = below(every(k), last) if k > 0 else below(last, zero)
        g = chosen(inside, g * slope, zero)
        bandwidth += g * (after - before)
        store(few.edges, LANES * PAD + i, g)
    fill(few.edges[LANES * (PAD + bins + 1) : LANES * (2 * PAD + bins + 1)], 0)
    store(own, TOTAL, total)
    store(own, ALONG, scale / load(own, WEIGHT))
    store(own, PULL, bandwidth)


@exact
def _settle(j, c, n, power, rule, states, own, grads):  # type: ignore[no-untyped-def]
    """Gradients of the score's affine; how far a value pulls through the bandwidth."""
    state = states[c]
    grads[2, c], grads[3, c] = own[ALONG + j], own[TOTAL + j]
    if rule.full:
        # As in `qact.kernels.cpu.backward.through_quantile`, in units of bins.
        pull = own[PULL + j] * state[BANDWIDTH] / state[WIDTH] ** 2
        pull *= rule.relative * power / (n * state[STD]) * state[WIDTH]
        own[PULL + j] = pull
    else:
        own[PULL + j] = 0


@exact
def _slopes(bins, full, few):  # type: ignore[no-untyped-def]
    """Slopes of level and context at the middles of bins, each side of zero continued on its own.

    Row ``k + 1`` holds those of bin ``k``, for k = -1 ... bins, below zero; so many rows on, above.
    """
    own, table, context = few.own, few.table, few.rank
    zero, inverse, side = load(own, ZERO), load(own, INVERSE), 2 * LANES * (bins + 2)
    downward = every(0) - inverse if full else every(0)
    for k in range(-1, bins + 1):
        row, under = 2 * LANES * (k + 1), below(every(k), zero)
        here = max(k, 0)
        level, moved = _slope(table, context, here, inverse, downward)
        near, far = max(here - 1, 0), max(here - 2, 0)
        on, off = _continued(table, context, near, far, inverse, downward)
        store_pairs(few.pairs, row, chosen(under, level, on), chosen(under, moved, off))
        near, far = min(here + 1, bins), min(here + 2, bins)
        on, off = _continued(table, context, near, far, inverse, downward)
        store_pairs(few.pairs, side + row, chosen(under, on, level), chosen(under, off, moved))


@exact
def _slope(table, context, k, inverse, downward):  # type: ignore[no-untyped-def]
    """Of level and context across bin ``k``."""
    i = LANES * k
    rise = load(table, i + LANES) - load(table, i)
    return rise * inverse, load(context, i + LANES) * downward


@exact
def _continued(table, context, near, far, inverse, downward):  # type: ignore[no-untyped-def]
    """The line through the slopes of two bins, one bin on."""
    level, moved = _slope(table, context, near, inverse, downward)
    level_far, moved_far = _slope(table, context, far, inverse, downward)
    return level + level - level_far, moved + moved - moved_far


@exact
def _descend(bins, few, score, slopes):  # type: ignore[no-untyped-def]
    """``g`` becomes ``g slope + w context + pull (y - mean)``, see `qact.kernels.cpu.backward`."""
    own, half, zero = few.own, every(0.5), every(0)
    low, high, inverse = load(own, LOW), load(own, HIGH), load(own, INVERSE)
    under, over, side = load(own, UNDER), load(own, OVER), every(bins + 2)
    pull, middle = load(own, PULL), load(own, MIDDLE)
    total = along = zero
    for i in range(0, slopes.size, LANES):
        value = load(few.x, i)
        scaled = smaller(larger(value * inverse, low), high) - half
        cell = floor(scaled)
        row = cell - low + every(1) + chosen(below(value, zero), zero, side)
        store(few.at, i, pattern(place_of(whole(row))))
        store(few.place, i, scaled - cell)
    for i in range(0, slopes.size, LANES):  # as in `qact.kernels.cpu.few.count`
        value, part, at = load(few.x, i), load(few.place, i), bits(load(few.at, i))
        negative = below(value, zero)
        slope, context = gathered_pairs(few.pairs, at)
        slope_after, context_after = gathered_pairs(few.pairs[2 * LANES :], at)
        slope += part * (slope_after - slope)
        context += part * (context_after - context)
        g = load(slopes, i) * slope + chosen(negative, under, over) * context
        g += pull * ((value - middle) * inverse)
        total += g
        along += g * load(score, i)
        store(slopes, i, g)
    store(own, TOTAL, total)
    store(own, ALONG, along)


@exact
def _finish(start, channels, normed, few, score, slopes, out):  # type: ignore[no-untyped-def]
    """Write the gradient; behind a norm it is ``slope (g - mean g - s mean(g s))``."""
    own, share = few.own, every(LANES / score.size)
    mean, along = load(own, TOTAL) * share, load(own, ALONG) * share
    slope = load(own, SLOPE) * load(own, SCALE)
    for i in range(0, score.size, LANES):
        g = load(slopes, i)
        if normed:
            g = slope * (g - mean - load(score, i) * along)
        write(g, start, channels, few.x, out[i // LANES])
