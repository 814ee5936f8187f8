"""The running context moves towards a batch: `qact.Context.follow`, one channel at a time."""

from __future__ import annotations

import math

import numpy as np

from qact.kernels.columns import BINS, OFFSET, ONE, PARTS, WIDTH
from qact.kernels.cpu.jit import jit
from qact.rank.moving import TRACE, TRIM


@jit
def follow(hist, state, c, rate, context, scratch):  # type: ignore[no-untyped-def]
    """``(1 - rate) stored + rate batch`` on a grid that holds both; a new channel is the batch."""
    mass, moment, _, _, exponent, offset = context
    bins, old, begin = mass.shape[1], int(exponent[c]), int(offset[c])
    mixed, inside = scratch[0, :bins], scratch[1, :bins]
    mixed[:] = 0
    inside[:] = 0
    total = _sum(mass[c])
    if total <= 0:
        rate = 1.0  # nothing is stored yet: the channel becomes its first batch
    batch, start = int(math.frexp(state[WIDTH])[1]) - 1, int(state[OFFSET])
    first, last = _occupied(hist, int(state[BINS]))
    first, last = start + first, start + last
    # The grid covers all of the batch, and all but the rarest of what is stored: a freak value of
    # long ago must not keep the bins wide.
    width, low, high = state[WIDTH], first * state[WIDTH], last * state[WIDTH]
    if total > 0:
        width = math.ldexp(1.0, old)
        left, right = _trimmed(mass[c], total)
        low = min(low, (begin + left) * width)
        high = max(high, (begin + right) * width)
    e, first = _spanning(low, high, bins)
    if total > 0:
        _move(mass[c], moment[c], old, begin, 1 - rate, e, first, mixed, inside)
    _pour(hist, int(state[BINS]), batch, start, rate, e, first, mixed, inside)
    exponent[c], offset[c] = e, first
    mass[c, :], moment[c, :] = mixed, inside
    _recentre(context, c)


@jit
def _sum(mass):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(mass.size):
        total += mass[k]
    return total


@jit
def _occupied(hist, bins):  # type: ignore[no-untyped-def]
    first, last = 0, bins
    while hist[first] == 0:
        first += 1
    while hist[last] == 0:
        last -= 1
    return first, last + 1


@jit
def _trimmed(mass, total):  # type: ignore[no-untyped-def]
    """The cells that hold all but a share `TRIM` of the mass on each side."""
    left, share = 0, np.float64(mass[0])
    while share <= TRIM * total and left < mass.size - 1:
        left += 1
        share += mass[left]
    right, share = mass.size, np.float64(mass[mass.size - 1])
    while share <= TRIM * total and right > left + 1:
        right -= 1
        share += mass[right - 1]
    return left, right


@jit
def _spanning(low, high, bins):  # type: ignore[no-untyped-def]
    """Exponent and first cell of the finest grid that covers both (`qact.rank.grid.spanning`)."""
    finest = max(max(abs(low), abs(high)) * 2.0**-23, 2.0**-120)
    fraction, e = math.frexp(max((high - low) / bins, finest))
    if fraction == 0.5:
        e -= 1
    width = math.ldexp(1.0, e)
    if math.ceil(high / width) - math.floor(low / width) > bins:
        e += 1
        width *= 2
    first, last = int(math.floor(low / width)), int(math.ceil(high / width))
    return e, first - ((bins - (last - first)) >> 1)


@jit
def _move(mass, moment, old, offset, factor, e, first, mixed, inside):  # type: ignore[no-untyped-def]
    """The stored mass on its new grid; what lies outside collects in the end bins."""
    bins, factor, trace = mass.size, np.float32(factor), np.float32(TRACE)
    shift = offset - first
    if old == e:  # as a rule: the grid is only shifted, in two vectorised loops
        begin, end = max(0, -shift), min(bins, bins - shift)
        if begin < end:
            m, p = mass[begin:end], moment[begin:end]
            to, at = mixed[begin + shift : end + shift], inside[begin + shift : end + shift]
            for k in range(m.size):
                # Traces are forgotten before they become subnormal, which are slow.
                kept = factor if m[k] * factor >= trace else np.float32(0)
                to[k] = m[k] * kept
                at[k] = p[k] * kept
        for k in range(bins):
            if (k < begin or k >= end) and mass[k] * factor >= trace:
                _drop(k + shift, mass[k] * factor, moment[k] * factor, mixed, inside)
        return
    for k in range(bins):
        if mass[k] * factor >= trace:
            cell, part = _resize(k + offset, moment[k] / mass[k], old, e)
            weight = np.float64(mass[k]) * factor
            _drop(cell - first, weight, part * weight, mixed, inside)


@jit
def _pour(hist, bins, batch, start, rate, e, first, mixed, inside):  # type: ignore[no-untyped-def]
    """The batch's counts, times ``rate``, on the same grid."""
    # Beyond 62 halvings a bin is all of one side of zero, and shifts would overflow.
    halvings = min(e - batch, 62)
    scale = math.ldexp(1.0, -halvings)
    for k in range(bins + 1):
        packed = hist[k]
        if packed != 0:
            n, parts = np.float64(packed >> 32), np.float64(packed & (ONE - 1)) / PARTS
            if halvings >= 0:
                cell = (k + start) >> halvings
                moment = (n * ((k + start) - (cell << halvings)) + parts) * scale
            else:
                cell, part = _resize(k + start, parts / n, batch, e)
                moment = n * part
            _drop(cell - first, n * rate, moment * rate, mixed, inside)


@jit
def _resize(cell, part, old, new):  # type: ignore[no-untyped-def]
    """Cell and place on a grid of another width."""
    if new >= old:
        halvings = min(new - old, 62)
        wide = cell >> halvings
        return wide, ((cell - (wide << halvings)) + part) * math.ldexp(1.0, -halvings)
    doublings = min(old - new, 30)
    fine = part * math.ldexp(1.0, doublings)
    jump = min(int(fine), (1 << doublings) - 1)
    return (cell << doublings) + jump, fine - jump


@jit
def _drop(cell, weight, moment, mixed, inside):  # type: ignore[no-untyped-def]
    last = mixed.size - 1
    if cell < 0:
        mixed[0] += weight
    elif cell > last:
        mixed[last] += weight
        inside[last] += weight
    else:
        mixed[cell] += weight
        inside[cell] += moment


@jit
def _recentre(context, c):  # type: ignore[no-untyped-def]
    """Mean and spread read off the bins."""
    mass, moment, mean, std, exponent, offset = context
    m, p = mass[c], moment[c]
    total, first, half = 0.0, 0.0, np.float64(m.size // 2)
    for k in range(m.size):
        total += m[k]
        first += m[k] * (k - half) + p[k]
    centre, second = first / total, 0.0
    for k in range(m.size):
        # Relative to the middle bin: an offset of millions would take the digits of the spread.
        place = (k - half - centre) + p[k] / max(m[k], np.float32(1e-30))
        second += m[k] * place * place
    width = math.ldexp(1.0, int(exponent[c]))
    mean[c] = (np.float64(offset[c]) + half + centre) * width
    std[c] = math.sqrt(max(second / total, 0.0)) * width
