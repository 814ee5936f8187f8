"""The table of a stored context: where a value stands in it, and lines between its numbers."""

from __future__ import annotations

import numpy as np

from qact.kernels.cpu.jit import exact
from qact.kernels.cpu.lanes import (
    LANES,
    below,
    both,
    chosen,
    either,
    floor,
    fused,
    gathered,
    lane,
    larger,
    load,
    lowest,
    minus,
    numbered,
    permuted,
    plus,
    put,
    smaller,
    some,
    splat,
    times,
    whole,
)
from qact.kernels.cpu.record import (
    BEFORE,
    BEHIND,
    HIGH,
    INVERSE,
    LEAST,
    LOW,
    REST,
    RISE,
    SCALE,
    SHIFT,
    WINDOW,
)


@exact
def located(x, record):  # type: ignore[no-untyped-def]
    """Bin of each value, and its place inside in [0, 1]; beyond the grid, the outermost edges."""
    edge, part = _edges(x, record)
    return whole(edge), part


@exact
def _edges(x, record):  # type: ignore[no-untyped-def]
    """The same as floating-point numbers.

    Flooring before the shift keeps every sign: a tiny negative value stays below zero's edge.
    """
    low, high = splat(record[LOW]), splat(record[HIGH])
    scaled = times(fused(x, splat(record[SCALE]), splat(record[SHIFT])), splat(record[INVERSE]))
    scaled = chosen(below(low, scaled), scaled, low)
    scaled = chosen(below(scaled, high), scaled, high)
    edge = floor(scaled)
    return minus(edge, low), minus(scaled, edge)


@exact
def line(x, c, tables):  # type: ignore[no-untyped-def]
    """Interpolation in the table."""
    table, bottom = tables[1][c], splat(tables[0][c, LEAST])
    cell, part = located(x, tables[0][c])
    left = gathered(table, cell)
    right = gathered(table[1:], cell)
    value = fused(part, minus(right, left), left)
    return chosen(below(value, bottom), bottom, value)


@exact
def tails(x, c, tables, before, behind):  # type: ignore[no-untyped-def]
    """The same in the lanes before and behind the cubics: in a window, or else one by one."""
    table, record = tables[1][c], tables[0][c]
    edge, part = _edges(x, record)
    edge = smaller(larger(edge, splat(record[RISE])), splat(record[REST]))
    value, away = _in_window(table, record[BEHIND], edge, part)
    missing = both(behind, away)
    if some(before):
        other, away = _in_window(table, record[BEFORE], edge, part)
        value = chosen(before, other, value)
        missing = either(missing, both(before, away))
    if some(missing):
        value = chosen(missing, _one_by_one(table, whole(edge), part, missing), value)
    bottom = splat(record[LEAST])
    return chosen(below(value, bottom), bottom, value)


@exact
def _in_window(table, begin, edge, part):  # type: ignore[no-untyped-def]
    """Interpolation between the `WINDOW` edges from ``begin`` on, and the lanes away from them."""
    start, place, one = np.int64(begin), minus(edge, splat(begin)), splat(np.float32(1))
    left, right = _held(table, start, place), _held(table, start, plus(place, one))
    zero, last = splat(np.float32(0)), splat(np.float32(WINDOW - 2))
    return fused(part, minus(right, left), left), either(below(place, zero), below(last, place))


@exact
def _held(table, start, place):  # type: ignore[no-untyped-def]
    """The table's numbers at a place of two registers."""
    index, half = whole(place), splat(np.float32(LANES))
    first = permuted(load(table, start), index)
    return chosen(below(place, half), first, permuted(load(table, start + LANES), index))


@exact
def _one_by_one(table, cell, part, which):  # type: ignore[no-untyped-def]
    """Interpolation in some lanes: a table is read for those alone."""
    left = right = splat(np.float32(0))
    rest = numbered(which)
    while rest != 0:
        k = lowest(rest)
        at = np.uint32(lane(cell, k))
        left, right = put(left, k, table[at]), put(right, k, table[at + np.uint32(1)])
        rest = np.int32(rest & (rest - 1))
    return fused(part, minus(right, left), left)
