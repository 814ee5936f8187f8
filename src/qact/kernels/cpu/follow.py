"""The running context moves towards a batch: `qact.Context.follow`, one channel at a time."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from qact.kernels.columns import BINS, COUNTS, MEAN, MOST, OFFSET, ONE, PARTS, STD, WIDTH
from qact.kernels.cpu.bits import exponent_of, power_of_two
from qact.kernels.cpu.jit import jit, owning
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.rows import copy, fill
from qact.rank.moving import FULL, TRACE, TRIM

BLOCK = 16  # bins that are looked at together


# A batch's bins are done so many at a time: loops over whole ones leave nothing to single steps.
STRIDE = 64
Room = namedtuple("Room", "mixed within counts places cells weights shares")


@owning
def room_for(context):  # type: ignore[no-untyped-def]
    """Memory for one thread: a channel's new bins, and those of a batch."""
    bins, most, f = context[0].shape[1], MOST + STRIDE, np.float32
    mixed, within = empty(bins, f), empty(bins, f)
    counts, places, cells = empty(most, f), empty(most, f), empty(most, np.int32)
    return Room(mixed, within, counts, places, cells, empty(most, f), empty(most, f))


@jit
def follow(hist, state, values, c, rate, context, room):  # type: ignore[no-untyped-def]
    """``(1 - rate) stored + rate batch``, see `qact.rank.moving.moved`."""
    size = int(state[BINS]) + 1
    for k in range(size):
        room.counts[k] = hist[k] >> COUNTS
        room.places[k] = np.float64(hist[k] & (ONE - 1)) * (1 / PARTS)
    move(size, state, values, c, rate, context, room)


@jit
def move(size, state, values, c, rate, context, room):  # type: ignore[no-untyped-def]
    """The same for a batch whose ``size`` bins are in ``room``: `counts`, and sums of `places`."""
    mass, moment, _, _, exponent, offset = context
    bins, old, begin = mass.shape[1], int(exponent[c]), int(offset[c])
    total = _sum(mass[c])
    batch, start = exponent_of(state[WIDTH]), int(state[OFFSET])
    first, last = _occupied(room.counts, size)
    low, high = (start + first) * state[WIDTH], (start + last) * state[WIDTH]
    if total > 0:
        width = power_of_two(old)
        inside = low >= begin * width and high <= (begin + bins) * width
        # What is stored is asked only where the batch alone would allow finer bins.
        coarse = high - low <= FULL * bins * width
        if coarse or not inside:
            left, right = _trimmed(mass[c], total)
            low = min(low, (begin + left) * width)
            high = max(high, (begin + right) * width)
            coarse = high - low <= FULL * bins * width and _spanning(low, high, bins)[0] < old
        if inside and not coarse:
            _decay(mass[c], moment[c], 1 - rate)
            _pour(first, last, batch, start, rate, old, begin, mass[c], moment[c], room)
            _join(state, c, (1 - rate) * total, rate * values, context)
            return
    # The grid covers all of the batch, and all but the rarest of what is stored: a freak value of
    # long ago must not keep the bins wide.
    mixed, within = room.mixed, room.within
    fill(mixed, 0)
    fill(within, 0)
    e, zero = _spanning(low, high, bins)
    if total > 0:
        _move(mass[c], moment[c], old, begin, 1 - rate, e, zero, mixed, within)
    # A channel of which nothing is stored yet becomes its first batch.
    rate = rate if total > 0 else 1.0
    _pour(first, last, batch, start, rate, e, zero, mixed, within, room)
    exponent[c], offset[c] = e, zero
    copy(mixed, mass[c])
    copy(within, moment[c])
    _recentre(context, c)


@jit
def _sum(mass):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(mass.size):
        total += mass[k]
    return total


@jit
def _occupied(counts, size):  # type: ignore[no-untyped-def]
    first, last = 0, size - 1
    while counts[first] == 0:
        first += 1
    while counts[last] == 0:
        last -= 1
    return first, last + 1


@jit
def _trimmed(mass, total):  # type: ignore[no-untyped-def]
    """The cells that hold all but a share `TRIM` of the mass on each side."""
    # Empty blocks are passed over; a sum that cell by cell adds nothing takes as long as another.
    left, right = 0, mass.size
    while left + BLOCK < mass.size and _sum(mass[left : left + BLOCK]) == 0:
        left += BLOCK
    share = np.float64(mass[left])
    while share <= TRIM * total and left < mass.size - 1:
        left += 1
        share += mass[left]
    while right - BLOCK > left + 1 and _sum(mass[right - BLOCK : right]) == 0:
        right -= BLOCK
    share = np.float64(mass[right - 1])
    while share <= TRIM * total and right > left + 1:
        right -= 1
        share += mass[right - 1]
    return left, right


@jit
def _spanning(low, high, bins):  # type: ignore[no-untyped-def]
    """Exponent and first cell of the finest grid that covers both (`qact.rank.grid.spanning`)."""
    finest = max(max(abs(low), abs(high)) * 2.0**-23, 2.0**-120)
    e = exponent_of(max((high - low) / bins, finest))
    width = power_of_two(e)
    if math.ceil(high / width) - math.floor(low / width) > bins:
        e += 1
        width *= 2
    first, last = int(math.floor(low / width)), int(math.ceil(high / width))
    return e, first - ((bins - (last - first)) >> 1)


@jit
def _decay(mass, moment, factor):  # type: ignore[no-untyped-def]
    """The stored mass where it is; traces are forgotten before they become slow subnormals."""
    factor, trace = np.float32(factor), np.float32(TRACE)
    for k in range(mass.size):
        kept = factor if mass[k] * factor >= trace else np.float32(0)
        mass[k] *= kept
        moment[k] *= kept


@jit
def _move(mass, moment, old, offset, factor, e, first, mixed, inside):  # type: ignore[no-untyped-def]
    """The stored mass on its new grid; what lies outside collects in the end bins."""
    for k in range(mass.size):
        weight = np.float64(mass[k]) * np.float32(factor)
        if weight >= TRACE:
            cell, part = _resize(k + offset, moment[k] / mass[k], old, e)
            _drop(cell - first, weight, part * weight, mixed, inside)


@jit
def _pour(first, last, batch, start, rate, e, zero, mixed, inside, room):  # type: ignore[no-untyped-def]
    """The batch's bins from ``first`` to ``last``, times ``rate``, on a grid that holds them."""
    if e <= batch:
        _pour_finer(first, last, start, rate, min(batch - e, 30), zero, mixed, inside, room)
        return
    # Beyond 62 halvings a bin is all of one side of zero, and shifts would overflow.
    halvings = min(e - batch, 62)
    scale = rate * power_of_two(-halvings)
    k = first
    for cell in range((start + first) >> halvings, ((start + last - 1) >> halvings) + 1):
        left, end = cell << halvings, min(((cell + 1) << halvings) - start, last)
        values, moment = 0.0, 0.0
        while k < end:
            count = np.float64(room.counts[k])
            values += count
            moment += count * np.float64(k + start - left) + room.places[k]
            k += 1
        at = min(max(cell - zero, 0), mixed.size - 1)
        mixed[at] += np.float32(values * rate)
        inside[at] += np.float32(moment * scale)


@jit
def _pour_finer(first, last, start, rate, doublings, zero, mixed, inside, room):  # type: ignore[no-untyped-def]
    """The same where a bin of the batch is as wide, or wider: all of it falls into one cell."""
    # Whole strides: what lies around the bins is read, and what comes of it is not.
    begin, end = first // STRIDE * STRIDE, -(-last // STRIDE) * STRIDE
    counts, places, cells = room.counts[begin:end], room.places[begin:end], room.cells[begin:end]
    weights, shares = room.weights[begin:end], room.shares[begin:end]
    # What a grid holds of a bin are some hundred cells: exact numbers, however they are written.
    fine, none, one = np.float32(power_of_two(doublings)), np.float32(0), np.float32(1)
    rate, most = np.float32(rate), np.float32(mixed.size - 1)
    origin = np.float32(((start + begin) << doublings) - zero)
    for k in range(cells.size):  # many at a time, as sums into cells are not
        n, scaled = counts[k], places[k] * fine
        jump = min(np.floor(scaled / max(n, one)), fine - one)
        cells[k] = np.int32(min(max(np.float32(np.int32(k)) * fine + jump + origin, none), most))
        weights[k] = n * rate
        shares[k] = max(scaled - jump * n, none) * rate
    # An empty bin adds nothing, which takes less time than to ask each whether it is.
    for k in range(first - begin, last - begin):
        cell = np.uint32(cells[k])
        mixed[cell] += weights[k]
        inside[cell] += shares[k]


@jit
def _resize(cell, part, old, new):  # type: ignore[no-untyped-def]
    """Cell and place on a grid of another width."""
    if new >= old:
        halvings = min(new - old, 62)
        wide = cell >> halvings
        return wide, ((cell - (wide << halvings)) + part) * power_of_two(-halvings)
    doublings = min(old - new, 30)
    fine = part * power_of_two(doublings)
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
def _join(state, c, own, fresh, context):  # type: ignore[no-untyped-def]
    """Mean and spread of what is stored and of the batch, weighing ``own`` and ``fresh``."""
    _, _, mean, std, _, _ = context
    share, gap = fresh / (own + fresh), state[MEAN] - mean[c]
    seen = state[STD] ** 2 + (1 - share) * gap**2
    mean[c] += share * gap
    std[c] = math.sqrt((1 - share) * np.float64(std[c]) ** 2 + share * seen)


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
    width = power_of_two(int(exponent[c]))
    mean[c] = (np.float64(offset[c]) + half + centre) * width
    std[c] = math.sqrt(max(second / total, 0.0)) * width
