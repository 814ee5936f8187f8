"""Exact step levels without a sort: the level rises at order statistics, and few are needed.

With ties counted in full, ``#{i : z_i <= z}`` reaches ``c`` exactly when ``z`` reaches the ``c``-th
smallest value. So level ``j`` begins at one order statistic. All of them lie in a few bins of a
fine grid, and only what fell into those is put into order.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from qact.kernels.columns import NEGATIVE
from qact.kernels.cpu.jit import jit, owning
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.rows import CHUNK, fill, locate

# Cells of the fine grid, and levels: codes are bytes.
FINEST, LEVELS = 4096, 255
Order = namedtuple("Order", "start begin free position threshold bucket codes")


@owning
def scratch(n):  # type: ignore[no-untyped-def]
    """Memory for one thread and rows of ``n`` values."""
    return Order(
        empty(FINEST + 4, np.int32),
        empty(FINEST + 4, np.int32),
        empty(FINEST + 4, np.int32),
        empty(LEVELS, np.int64),
        empty(LEVELS, np.float32),
        empty(n, np.float32),
        empty(n, np.uint8),
    )


@jit
def rank_codes(row, work, rule, steps, state, order, codes):  # type: ignore[no-untyped-def]
    """``codes[i]``: the level that ``row[i]`` reaches by its step rank, 0 to ``steps``."""
    n, below = row.size, int(state[NEGATIVE])
    width, offset, bins = fine_grid(work.ends[0], work.ends[1], n)
    inverse, cell, place = np.float32(1 / width), work.cell, work.place
    positions(n, below, rule.grounded, rule.sentinels, steps, order.position)
    starts(row, inverse, offset, bins, order.start, cell, place)
    mark(order.start, bins, order.position, steps, order.begin, order.free)
    collect(row, inverse, offset, bins, order.free, cell, place, order.bucket)
    thresholds(
        order.start, bins, order.position, order.begin, order.free, order.bucket, order.threshold
    )
    assign(row, inverse, offset, bins, order.begin, order.threshold, cell, place, codes)


@jit
def code_moments(codes):  # type: ignore[no-untyped-def]
    """Mean and variance of the codes: sums of integers, exact."""
    total, square = np.int64(0), np.int64(0)
    for i in range(codes.size):
        code = np.int32(codes[i])
        total += code
        square += code * code
    mean = total / codes.size
    return mean, max(square / codes.size - mean * mean, 0.0)


@jit
def fine_grid(low, high, n):  # type: ignore[no-untyped-def]
    """Width, first cell and number of cells of the grid on which order statistics are sought."""
    wanted = min(max(n // 4, 64), FINEST // 2)
    finest = max(max(abs(low), abs(high)) * 2.0**-22, 2.0**-119)
    _, exponent = math.frexp(max((high - low) / wanted, finest))
    width = math.ldexp(1.0, exponent - 1)
    first, last = math.floor(low / width), math.ceil(high / width)
    return width, int(first), max(int(last - first), 1)


@jit
def positions(n, below, grounded, sentinels, steps, position):  # type: ignore[no-untyped-def]
    """``position[j - 1]``: how many values must not exceed ``z`` for it to reach level ``j``.

    The rank of ``c`` values is ``c / n``, or grounded ``(c + k) / 2 (n- + k)`` up to ``n-`` and
    ``1/2 + (c - n-) / 2 (n+ + k)`` beyond, with ``k`` sentinels a side.
    """
    slack = 1e-9
    for j in range(1, steps + 1):
        rank = j / (steps + 1)
        # The slack: c / n may fall just short of j / (steps + 1) by rounding where they are equal.
        if not grounded:
            c = math.ceil(rank * n - slack)
        else:
            c = math.ceil(2 * rank * (below + sentinels) - sentinels - slack)
            # A level that the side below zero does not reach begins above it, with a value there.
            if c > below or below == 0:
                beyond = math.ceil((2 * rank - 1) * (n - below + sentinels) - slack)
                c = below + max(beyond, 1)
        position[j - 1] = min(max(c, 1), n + 1)


@jit
def starts(row, inverse, offset, bins, start, cell, place):  # type: ignore[no-untyped-def]
    """``start[b]``: how many values lie in cells before ``b``."""
    fill(start[: bins + 2], 0)
    for at in range(0, row.size, CHUNK):
        chunk = row[at : at + CHUNK]
        locate(chunk, inverse, offset, bins, cell, place)
        for i in range(chunk.size):
            start[cell[i] + np.uint32(1)] += 1
    for b in range(bins + 1):
        start[b + 1] += start[b]


@jit
def mark(start, bins, position, steps, begin, free):  # type: ignore[no-untyped-def]
    """``begin[b]``: levels that begin before cell ``b``; ``free[b]``: its place in a bucket, or -1.

    Only cells in which a level begins are collected.
    """
    reached, filled = 0, 0
    for b in range(bins + 1):
        begin[b] = reached
        while reached < steps and position[reached] <= start[b + 1]:
            reached += 1
        # Most cells hold no beginning of a level: their values need no order among each other.
        free[b] = -1
        if reached > begin[b]:
            free[b] = filled
            filled += start[b + 1] - start[b]
    begin[bins + 1] = reached


@jit
def collect(row, inverse, offset, bins, free, cell, place, bucket):  # type: ignore[no-untyped-def]
    """The values of marked cells, side by side; ``free`` ends one past each cell's last value."""
    for at in range(0, row.size, CHUNK):
        chunk = row[at : at + CHUNK]
        locate(chunk, inverse, offset, bins, cell, place)
        for i in range(chunk.size):
            target = free[cell[i]]
            if target >= 0:
                bucket[target] = chunk[i]
                free[cell[i]] = target + 1


@jit
def thresholds(start, bins, position, begin, free, bucket, threshold):  # type: ignore[no-untyped-def]
    """``threshold[j - 1]``: the value from which on level ``j`` is reached."""
    for b in range(bins + 1):
        if begin[b + 1] > begin[b]:
            first, last = free[b] - (start[b + 1] - start[b]), free[b] - 1
            left = first
            for j in range(begin[b], begin[b + 1]):
                k = first + position[j] - start[b] - 1
                _select(bucket, left, last, k)
                threshold[j] = bucket[k]
                left = k  # what stands before is smaller, so the next search begins here


@jit
def _select(values, left, right, k):  # type: ignore[no-untyped-def]
    """Put the ``k``-th smallest in its place, smaller ones before and larger ones after it."""
    while left < right:
        pivot = values[(left + right) >> 1]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            return


@jit
def assign(row, inverse, offset, bins, begin, threshold, cell, place, codes):  # type: ignore[no-untyped-def]
    """The level that each value has reached."""
    for at in range(0, row.size, CHUNK):
        chunk, target = row[at : at + CHUNK], codes[at : at + CHUNK]
        locate(chunk, inverse, offset, bins, cell, place)
        for i in range(target.size):
            # Only the levels that begin inside this cell are in question.
            low, high = begin[cell[i]], begin[cell[i] + np.uint32(1)]
            while low < high:
                middle = (low + high) >> 1
                if threshold[middle] <= chunk[i]:
                    low = middle + 1
                else:
                    high = middle
            target[i] = low
