"""The gradient of the block: through the quantile, its context, and the statistics of both norms.

With ``g = dL/dv`` for the values ``v = T(F_h(y))`` of a channel and ``T'`` the slope of its level,

    dL/dy_j = g_j T'(F(y_j)) f_h(y_j) - w_j sum_i g_i T'(F(y_i)) phi_h(y_i - y_j)  + dL/dh dh/dy_j

The sum over ``i`` is a second histogram, of gradients, smoothed by the same kernel; and by the heat
equation ``dF/dh = h F''``, a second difference of the table of ranks. A continuous grounded rank is
a function of the ungrounded ``G`` and of ``q = G(0)``: one more query, at zero.
"""

from __future__ import annotations

import math

import numpy as np

from qact.kernels.columns import (
    ABREAST,
    BANDWIDTH,
    BINS,
    CONTINUOUS,
    FINITE,
    IN_MEAN,
    IN_VAR,
    MEAN,
    MOST,
    NEGATIVE,
    OFFSET,
    OUT_MEAN,
    OUT_VAR,
    RELU,
    STD,
    STEPS,
    TAPS,
    WIDTH,
)
from qact.kernels.cpu.gauss import convolve, taps
from qact.kernels.cpu.indexed import add_listed, listed_fours
from qact.kernels.cpu.jit import exact, jit, owning
from qact.kernels.cpu.lanes import LANES, below, chosen, every, load, store
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.observe import count_row, scratch, tabulate
from qact.kernels.cpu.rows import (
    CHUNK,
    block,
    copy,
    fill,
    gather,
    interpolate,
    locate,
    padded,
    scatter,
    standardise,
    stretch,
)
from qact.kernels.cpu.table import crossing, lowest, ratio, side_slopes, side_weights, varies


@owning
def backward(first, last, z, grad, rule, level, affine, eps, saved, grads, out):  # type: ignore[no-untyped-def]
    """Channels ``first ... last``: ``dL/dz`` into ``out``, those of the affines into ``grads``."""
    outer, _, inner = z.single.shape
    n = outer * inner
    width, length = block(inner, n), padded(n)
    rows, slopes = empty((width, length), np.float32), empty((width, length), np.float32)
    normed, value = empty(length, np.float32)[:n], empty(length, np.float32)[:n]
    work = scratch()
    mass, pair = empty(2 * MOST + 8, np.float64), empty(2 * MOST + 24, np.float32)
    for start in range(first, last, width):
        channels = min(width, last - start)
        gather(z, start, channels, rows)
        gather(grad, start, channels, slopes)
        for c in range(start, start + channels):
            row, g, state = rows[c - start][:n], slopes[c - start][:n], saved.state[c]
            fill(slopes[c - start][n:], 0)  # it is summed up in whole vectors
            if state[FINITE] == ABREAST:
                for i in range(n):
                    g[i] = out.single[i, c, 0]
                continue
            # A channel that is not finite has no ranks, so it has no gradient that is a number.
            if state[FINITE] == 0:
                fill(g, np.nan)
                fill(grads[:, c], np.nan)
                continue
            score = row
            if eps[0] >= 0:
                standardise(row, state[IN_MEAN], state[IN_VAR], eps[0])
                row = normed  # the norm's gradient is in terms of what was before its affine
                stretch(score, affine.in_weight[c], affine.in_bias[c], row)
            recall(row, rule, level.kind, affine, c, saved, work)
            # From the output back to the input: the norm behind, the quantile, the norm before.
            if eps[1] >= 0:
                values(row, level, affine, c, saved, work, value)
                inverse = 1 / math.sqrt(state[OUT_VAR] + eps[1])
                standardise(value, state[OUT_MEAN], state[OUT_VAR], eps[1])
                through_norm(value, g, affine.out_weight[c] * inverse, grads[4:, c])
            through_quantile(row, rule, level, affine, c, saved, work, mass, pair, g, grads[2:, c])
            if eps[0] >= 0:
                inverse = 1 / math.sqrt(state[IN_VAR] + eps[0])
                through_norm(score, g, affine.in_weight[c] * inverse, grads[:, c])
        scatter(slopes, start, channels, out)


@jit
def recall(row, rule, kind, affine, c, saved, work):  # type: ignore[no-untyped-def]
    """Ranks and levels at the edges: as they were saved, or from the input once more."""
    state, bins = saved.state[c], int(saved.state[c, BINS])
    # The scores are read back from the levels, which a weight of zero has made all alike.
    if saved.tables.shape[1] >= 2 * bins + 4 and affine.weight[c] != 0:
        copy(saved.tables[c, : bins + 2], work.rise)
        copy(saved.tables[c, bins + 2 : 2 * bins + 4], work.table)
        return
    count_row(row, state, work)
    tabulate(row.size, rule, kind, affine.weight[c], affine.bias[c], state, work)


@jit
def values(row, level, affine, c, saved, work, value):  # type: ignore[no-untyped-def]
    """What the forward pass gave, before the norm behind it."""
    state = saved.state[c]
    if level.kind == STEPS:
        weight, codes = affine.weight[c] / np.float32(level.steps + 1), saved.codes[c]
        for i in range(value.size):
            value[i] = np.float32(codes[i]) * weight + affine.bias[c]
        return
    inverse, offset, bins = np.float32(1 / state[WIDTH]), int(state[OFFSET]), int(state[BINS])
    least = lowest(level.kind)
    interpolate(row, inverse, offset, bins, work.table, least, work.cell, work.place, value)


@jit
def through_norm(score, g, slope, grads):  # type: ignore[no-untyped-def]
    """``g`` becomes ``slope (g - mean g - s mean(g s))``; ``grads``: of scale and shift."""
    total, product = sums(g, score)
    grads[0], grads[1] = product, total
    mean, along = np.float32(total / g.size), np.float32(product / g.size)
    slope = np.float32(slope)
    for i in range(g.size):
        g[i] = slope * (g[i] - mean - score[i] * along)


@jit
def sums(g, value):  # type: ignore[no-untyped-def]
    """``sum g`` and ``sum g value``: over chunks in float32, of chunks in float64."""
    total, product = 0.0, 0.0
    for start in range(0, g.size, CHUNK):
        a, b = g[start : start + CHUNK], value[start : start + CHUNK]
        part, cross = np.float32(0), np.float32(0)
        for i in range(a.size):
            part += a[i]
            cross += a[i] * b[i]
        total += part
        product += cross
    return total, product


@jit
def through_quantile(row, rule, level, affine, c, saved, work, mass, pair, g, grads):  # type: ignore[no-untyped-def]
    """``g`` becomes the gradient with respect to the row; ``grads``: of the score's affine."""
    state, n = saved.state[c], row.size
    weight, bias, bins = affine.weight[c], affine.bias[c], int(state[BINS])
    alive = rule.relative == 0 or varies(state[MEAN], state[STD])
    # Steps alone need no histogram of gradients under ``density``: their scores are the codes.
    if rule.full or level.kind != STEPS:
        spread(row, g, level.kind, weight >= 0, state, work, mass)
        score_grads(mass, work, bins, weight, bias, grads)
    if level.kind == STEPS:
        step_grads(g, saved.codes[c], level.steps, grads)
    if not alive:
        fill(g, 0)
        return
    pull = 0.0
    if rule.full:
        # h = c std n^power, and d std / dy_j = (y_j - mean) / (n std): the rest is in `descend`.
        pull = rank_grads(mass, n, rule, state, work) * rule.relative * n**rule.power / n
        pull = pull / state[STD] if state[STD] > 0 else 0.0
    edge_slopes(state, rule.full, work, pair)
    negative, positive, _ = side_weights(state, n, rule.grounded, rule.sentinels)
    descend(row, state, pair, np.float32(negative), np.float32(positive), pull, work, g)


@jit
def spread(row, g, kind, upright, state, work, mass):  # type: ignore[no-untyped-def]
    """The histogram of gradients: per bin the sum of ``g``, and of ``g`` times the place.

    A ReLU first stops the gradient of all values that it has set to zero: those on one side of the
    place where the level crosses it.
    """
    inverse, offset, bins = np.float32(1 / state[WIDTH]), int(state[OFFSET]), int(state[BINS])
    cell, place, towards = work.cell, work.place, inverse if upright else -inverse
    beyond = crossing(work.table, bins, offset, upright) if kind == RELU else np.float32(0)
    beyond = beyond if upright else -beyond
    fill(mass[: 2 * bins + 4], 0)
    for start in range(0, row.size, CHUNK):
        chunk, here = g[start : start + CHUNK], row[start : start + CHUNK]
        locate(here, inverse, offset, bins, cell, place)
        _add_up(here, chunk, kind, towards, beyond, cell, place, mass)


@exact
def _add_up(row, g, kind, towards, beyond, cell, place, mass):  # type: ignore[no-untyped-def]
    towards, beyond, zero = every(towards), every(beyond), every(0)
    for i in range(0, row.size, LANES):
        x = load(g, i)
        if kind == RELU:
            x = chosen(below(beyond, load(row, i) * towards), x, zero)
            store(g, i, x)
        add_listed(mass, cell, i, x, x * load(place, i))


@jit
def score_grads(mass, work, bins, weight, bias, grads):  # type: ignore[no-untyped-def]
    """Of ``weight s + bias``; levels give the scores ``s`` back, unless the weight is zero."""
    table, score = work.table, work.score
    scale, total = 0.0, 0.0
    for k in range(bins + 1):
        left, right = mass[2 * k] - mass[2 * k + 1], mass[2 * k + 1]
        total += left + right
        if weight != 0:
            here, after = (table[k] - bias) / weight, (table[k + 1] - bias) / weight
        else:
            here, after = score[k], score[min(k + 1, bins)]
        scale += left * here + right * after
    grads[0], grads[1] = scale, total


@jit
def step_grads(g, codes, steps, grads):  # type: ignore[no-untyped-def]
    """Of ``weight k / (steps + 1) + bias`` at the levels ``k``."""
    scale, shift = 0.0, 0.0
    for i in range(g.size):
        scale += g[i] * codes[i]
        shift += g[i]
    grads[0], grads[1] = scale / (steps + 1), shift


@jit
def rank_grads(mass, values, rule, state, work):  # type: ignore[no-untyped-def]
    """``work.score[k + 1]``: the rise across bin ``k`` of the context's gradient; returns dL/dh.

    The slope of the level at an edge is that of the line through the edges on either side.
    """
    bins, pad = int(state[BINS]), TAPS + 2
    edges, rise, table = work.edges, work.rise, work.table
    fill(edges[:pad], 0)
    fill(edges[pad + bins + 1 : bins + 2 * pad + 1], 0)
    own, slope = edges[pad : pad + bins + 1], work.tail[: bins + 1]
    slope[0], slope[bins] = 0, 0  # outermost bins are empty
    for k in range(1, bins):
        slope[k] = (table[k + 1] - table[k - 1]) / max(rise[k] + rise[k + 1], np.float32(1e-30))
    own[0] = (mass[0] - mass[1]) * slope[0]
    for k in range(1, bins + 1):
        own[k] = (mass[2 * k] - mass[2 * k + 1] + mass[2 * k - 1]) * slope[k]
    if rule.grounded == CONTINUOUS:
        through_ground(own, values, rule.sentinels, state, rise)
    # The heat equation: dF/dh = h F'', and F'' at an edge is the difference of two rises.
    bandwidth = 0.0
    for k in range(own.size):
        bandwidth += np.float64(own[k]) * (rise[k + 1] - rise[k])
    reach = taps(ratio(state), work.kernel)
    convolve(edges, bins, work.kernel, reach, work.score)
    return bandwidth * state[BANDWIDTH] / state[WIDTH] ** 2


@jit
def through_ground(own, values, sentinels, state, rise):  # type: ignore[no-untyped-def]
    """``dL/dF`` at the edges becomes ``dL/dG``, and the rises of ``F`` those of ``G``.

    With ``a = 1 / (2 q)`` below zero, ``dF = a dG - 2 a F dq``; above, ``1 - F`` in the place of
    ``F``. ``a`` is constant where it stands at its largest.
    """
    zero, least = -int(state[OFFSET]), 0.5 * values / (values + 1.0)
    low, high = side_slopes(state, values, sentinels)
    for k in range(own.size + 1):
        rise[k] /= np.float32(low if k <= zero else high)
    if not 0 <= zero < own.size:
        slope = np.float32(low if zero > 0 else high)
        for k in range(own.size):
            own[k] *= slope
        return
    # Every rank depends on q = G(0) too: what that collects goes to the edge at zero.
    at_zero = 0.0
    fixed, gap = state[NEGATIVE] + sentinels < least, 0.0
    for k in range(zero - 1, -1, -1):
        gap += low * rise[k + 1]
        own[k] *= np.float32(low)
        at_zero -= own[k] * (1.0 if fixed else max(1.0 - 2 * gap, 0.0))
    fixed, gap = values - state[NEGATIVE] + sentinels < least, 0.0
    for k in range(zero + 1, own.size):
        gap += high * rise[k]
        own[k] *= np.float32(high)
        at_zero -= own[k] * (1.0 if fixed else max(1.0 - 2 * gap, 0.0))
    own[zero] = at_zero


@jit
def edge_slopes(state, full, work, pair):  # type: ignore[no-untyped-def]
    """Slopes of level and context at the middles of bins, for two straight lines per value.

    ``pair[2 i]`` and ``pair[2 i + 1]`` for the middle of bin ``i - 1`` below zero and ``i - 3``
    above: each side of zero is continued on its own, since levels and weights may jump there.
    """
    bins, inverse = int(state[BINS]), np.float32(1 / state[WIDTH])
    zero = min(max(-int(state[OFFSET]), 0), bins)
    for k in range(bins):
        i = 2 * (k + 1 if k < zero else k + 3)
        pair[i] = (work.table[k + 1] - work.table[k]) * inverse
        pair[i + 1] = -work.score[k + 1] * inverse if full else np.float32(0)
    for q in range(2):
        _continue(pair[q:], 1, zero)
        _continue(pair[q:], zero + 3, bins + 2)


@jit
def _continue(line, first, last):  # type: ignore[no-untyped-def]
    """One more entry on either side of ``first ... last``, on a straight line."""
    if last < first:
        line[2 * (first - 1)] = line[2 * first] = 0
        return
    second, before = min(first + 1, last), max(last - 1, first)
    line[2 * (first - 1)] = 2 * line[2 * first] - line[2 * second]
    line[2 * (last + 1)] = 2 * line[2 * last] - line[2 * before]


@jit
def descend(row, state, pair, negative, positive, pull, work, g):  # type: ignore[no-untyped-def]
    """``g`` becomes ``g slope + w context + pull (row - mean)``.

    The last in units of bins, so that it does not overflow where values are tiny: as it is written.
    """
    inverse, offset, bins = np.float32(1 / state[WIDTH]), int(state[OFFSET]), int(state[BINS])
    low, high = np.float32(offset), np.float32(offset + bins)
    centre, pull = np.float32(state[MEAN]), np.float32(pull * state[WIDTH])
    half = np.float32(0.5)
    shift, cell, place = np.int32(offset - 1), work.cell, work.place
    for start in range(0, row.size, CHUNK):
        chunk, target = row[start : start + CHUNK], g[start : start + CHUNK]
        for i in range(chunk.size):
            scaled = chunk[i] * inverse
            scaled = scaled if scaled > low else low
            scaled = scaled if scaled < high else high
            floor = np.floor(scaled - half)  # slopes are known at the middles of bins
            place[i] = scaled - half - floor
            side = np.int32(2) if chunk[i] >= 0 else np.int32(0)
            cell[i] = np.uint32(2 * (np.int32(floor) - shift + side))
        _descended(chunk, work, pair, negative, positive, pull, centre, inverse, target)


@exact
def _descended(row, work, pair, negative, positive, pull, centre, inverse, g):  # type: ignore[no-untyped-def]
    cell, place = work.cell, work.place
    middle, step, pulled = every(centre), every(inverse), every(pull)
    under, over, zero = every(negative), every(positive), every(0)
    for i in range(0, row.size, LANES):
        x, p = load(row, i), load(place, i)
        weight = chosen(below(x, zero), under, over)
        slope, context, slope_after, context_after = listed_fours(pair, cell, i)
        slope += p * (slope_after - slope)
        context += p * (context_after - context)
        pull_here = pulled * ((x - middle) * step)
        store(g, i, load(g, i) * slope + weight * context + pull_here)
