"""A stored context: a cubic, or one interpolation, or one step per value; nothing else is read.

Values are read and written in the order of memory, sixteen at a time, in their own precision.
"""

from __future__ import annotations

from array import array

import numpy as np
import torch
from torch import Tensor

from qact.kernels.columns import PARTS
from qact.kernels.cpu.frame import FIRST, cube, opened, pack, plane
from qact.kernels.cpu.jit import Kernel, exact, inline
from qact.kernels.cpu.lanes import (
    CONVERTS,
    LANES,
    PERMUTES,
    below,
    bits,
    both,
    chosen,
    either,
    floor,
    fused,
    gathered,
    lane,
    larger,
    least,
    load,
    lowest,
    minus,
    nearest,
    numbered,
    permuted,
    plus,
    put,
    smaller,
    some,
    splat,
    store,
    times,
    transpose,
    unknown,
    whole,
)
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.pages import empty_like
from qact.kernels.cpu.pool import run, share
from qact.kernels.pieces import ERROR, PIECES
from qact.kernels.stored import Stored
from qact.rank.layout import channels_last, memory_order

# Short runs of a channel are put together to so many values.
CHUNK = 256
# Where pieces begin and end, if the middle one begins at -1/2.
BEGIN, END = -0.5 * PIECES - 0.5, 0.5 * PIECES - 0.5
# Numbers of a channel, behind its four times sixteen coefficients.
NUMBERS = 4 * LANES
CENTRE, RATE, FAR, LEAST, SCALE, SHIFT, INVERSE, LOW, HIGH = range(NUMBERS, NUMBERS + 9)
# Edges between which its table moves, and where its windows before and behind the cubics begin.
RISE, REST, BEFORE, BEHIND = range(NUMBERS + 9, NUMBERS + 13)
# Edges of a table that two registers hold.
WINDOW = 2 * LANES
# Added to a small number it leaves that rounded, in its last bits.
ROUND = np.float32(1.5 * 2.0**23)


def lookup(input: Tensor, stored: Stored, dim: int = 1) -> Tensor:
    """The activation of ``input``, channels at ``dim``, in a stored context.

    The output is like the input; float32, if no kernel reads the input's dtype.
    """
    kernels = _STEP if stored.place.shape[1] else _SMOOTH
    if input.dtype not in kernels:
        input = input.float()
    if not input.is_contiguous() and not channels_last(input, dim):
        input = input.contiguous()
    shape, out = memory_order(input, dim), empty_like(input)
    made = stored.made.get("cpu")
    if made is None:  # of several threads one is first, and the others read what it has made
        made = stored.made.setdefault("cpu", _prepared(stored))
    frame = made[0][:]
    frame[FIRST : FIRST + 8] = array("q", (input.data_ptr(), *shape, out.data_ptr(), *shape))
    run(kernels[input.dtype], frame, shape[1], input.numel())
    return out


def _prepared(stored: Stored) -> tuple[array[int], tuple[Tensor, Tensor]]:
    """The frame of its tables, and what must outlive it: it holds addresses."""
    records, table = _records(stored), stored.table
    short = max(0, WINDOW - table.shape[1])
    table = torch.cat([table, table[:, -1:].expand(-1, short)], 1) if short else table
    blank = records.new_empty(0, 0, 0)
    return pack([blank, blank, records, table, stored.place], []), (records, table)


def _records(stored: Stored) -> Tensor:
    """All that a channel needs beside its table, side by side, from `CENTRE` on."""
    curves, places = _placed(stored)
    first, bins = stored.offset.float(), stored.table.shape[1] - 2
    numbers = [stored.least, stored.scale, stored.shift, stored.inverse, first, first + bins]
    numbers += _windows(stored)
    blank = curves.new_zeros(len(first), LANES - 3 - len(numbers))
    return torch.cat([curves, places, torch.stack(numbers, 1), blank], 1).contiguous()


def _windows(stored: Stored) -> list[Tensor]:
    """`RISE` to `BEHIND`, (C,) each.

    A tail is short: beyond the cubics lie some tens of edges, then one value for good.
    """
    last = stored.table.shape[1] - 1
    edge, moves = torch.arange(last), stored.table.diff(dim=1) != 0
    rise = torch.where(moves, edge, last).amin(1) - 1
    rest = torch.where(moves, edge + 1, 0).amax(1)
    pieces = stored.pieces
    if pieces is None:
        return [rise.float(), rest.float(), *[torch.zeros(len(moves))] * 2]
    end, left = pieces.begin + PIECES * pieces.width, pieces.width < 0
    before = torch.where(left, pieces.begin, pieces.begin - WINDOW)
    behind = torch.where(left, end - WINDOW, end)
    starts = (t.floor().clamp(0, max(0, last + 1 - WINDOW)) for t in (before, behind))
    return [t.float() for t in (rise, rest, *starts)]


def _placed(stored: Stored) -> tuple[Tensor, Tensor]:
    """The cubics as registers hold them, piece ``k`` in lane ``k mod 16``; where they are (C, 3).

    ``t = (z - centre) rate`` counts pieces from -8.5 to 7.5. Below ``far`` the table answers: minus
    infinity where the floor does, infinity where the table answers all.
    """
    channels, pieces = len(stored.least), stored.pieces
    if pieces is None or not PERMUTES:
        none = torch.tensor([0.0, 1.0, torch.inf])
        return torch.zeros(channels, NUMBERS), none.repeat(channels, 1)
    scale, shift = stored.scale.double(), stored.shift.double()
    middle = stored.offset + pieces.begin - BEGIN * pieces.width
    centre = (middle / stored.inverse.double() - shift) / scale
    rate = scale * stored.inverse / pieces.width
    places = torch.stack([centre, rate], 1).float()
    # A centre is rounded as values are: where that is much of a piece, they are no more than steps.
    moved = ((places[:, 0] - centre) * rate).abs()
    good = pieces.good & (moved <= ERROR / 4) & torch.isfinite(places).all(1)
    good &= places[:, 1].abs() > torch.finfo(torch.float32).tiny
    far = torch.where(good, torch.where(pieces.floored, -torch.inf, BEGIN), torch.inf)
    curves = pieces.curves.roll(PIECES // 2, 2).flatten(1)
    return curves.float(), torch.cat([places, far[:, None].float()], 1)


@inline
def _recall(data, dtype, row):  # type: ignore[no-untyped-def]
    """Every channel of this thread by ``row``."""
    frame, f = opened(data), np.float32
    z, out = cube(frame, 0, dtype), cube(frame, 1, dtype)
    tables = plane(frame, 2, f), plane(frame, 3, f), plane(frame, 4, f)
    outer, channels, inner = z.shape
    first, last = share(frame, channels)
    if inner >= LANES:
        for n in range(outer):
            for c in range(first, last):
                row(z[n, c], out[n, c], c, tables)
    elif outer >= LANES and (last - first) * inner >= LANES:
        columns = first * inner, last * inner
        _across(plane(frame, 0, dtype), plane(frame, 1, dtype), inner, columns, tables, row)
    else:
        _put_together(z, out, first, last, tables, row)


@inline
def _across(z, out, inner, columns, tables, row):  # type: ignore[no-untyped-def]
    """The same for some columns of ``z`` (N, C L): sixteen by sixteen values."""
    tile = empty((LANES, LANES), np.float32)
    for column in range(columns[0], columns[1], LANES):
        j = min(column, columns[1] - LANES)
        for start in range(0, z.shape[0], LANES):
            n = min(start, z.shape[0] - LANES)
            _into_tile(z, n, j, tile)
            c, run = j // inner, j % inner
            for k in range(LANES):
                row(tile[k], tile[k], c, tables)
                run += 1
                if run == inner:
                    c, run = c + 1, 0
            _out_of_tile(tile, n, j, out)


@inline
def _put_together(z, out, first, last, tables, row):  # type: ignore[no-untyped-def]
    """The same for a channel's values in short runs, of few samples or of few channels."""
    outer, _, inner = z.shape
    runs = max(1, CHUNK // inner)
    buffer = np.zeros(_lanes(runs * inner), z.dtype)
    for start in range(0, outer, runs):
        end = min(start + runs, outer)
        values = buffer[: _lanes((end - start) * inner)]
        for c in range(first, last):
            for n in range(start, end):
                for i in range(inner):
                    values[(n - start) * inner + i] = z[n, c, i]
            row(values, values, c, tables)
            for n in range(start, end):
                for i in range(inner):
                    out[n, c, i] = values[(n - start) * inner + i]


@exact
def _lanes(values):  # type: ignore[no-untyped-def]
    """So many and as many more as fill the last sixteen."""
    return (values + LANES - 1) // LANES * LANES


@exact
def _into_tile(z, first, column, tile):  # type: ignore[no-untyped-def]
    """Sixteen columns of sixteen values, as rows."""
    for n in range(LANES):
        store(tile[n], 0, load(z[first + n], column))
    transpose(tile)


@exact
def _out_of_tile(tile, first, column, out):  # type: ignore[no-untyped-def]
    """The inverse of :func:`_into_tile`."""
    transpose(tile)
    for n in range(LANES):
        store(out[first + n], column, load(tile[n], 0))


@exact
def _curve(row, goal, c, tables):  # type: ignore[no-untyped-def]
    """By a cubic in the bulk of the context, by a line beyond it."""
    record, round_ = tables[0][c], splat(ROUND)
    k0, k1 = load(record, 0), load(record, LANES)
    k2, k3 = load(record, 2 * LANES), load(record, 3 * LANES)
    centre, rate, far = splat(record[CENTRE]), splat(record[RATE]), splat(record[FAR])
    begin, end, bottom = splat(np.float32(BEGIN)), splat(np.float32(END)), splat(record[LEAST])
    for start in range(0, row.size, LANES):
        i = min(start, row.size - LANES)
        x = load(row, i)
        t = times(minus(x, centre), rate)
        moved = plus(t, round_)
        piece, u = bits(moved), minus(t, minus(moved, round_))
        value = fused(permuted(k3, piece), u, permuted(k2, piece))
        value = fused(value, u, permuted(k1, piece))
        value = fused(value, u, permuted(k0, piece))
        value = chosen(below(value, bottom), bottom, value)
        value = chosen(least(t, begin), bottom, value)
        before, behind = least(t, far), least(end, t)
        beyond = either(before, behind)
        if some(beyond):
            value = chosen(beyond, _tails(x, c, tables, before, behind), value)
        store(goal, i, value)


@exact
def _straight(row, goal, c, tables):  # type: ignore[no-untyped-def]
    """By lines alone: for processors that cannot look coefficients up in a register."""
    for start in range(0, row.size, LANES):
        i = min(start, row.size - LANES)
        x = load(row, i)
        store(goal, i, chosen(unknown(x), x, _line(x, c, tables)))


_smooth = _curve if PERMUTES else _straight


@exact
def _line(x, c, tables):  # type: ignore[no-untyped-def]
    """Interpolation in the table."""
    table, bottom = tables[1][c], splat(tables[0][c, LEAST])
    cell, part = _located(x, tables[0][c])
    left = gathered(table, cell)
    right = gathered(table[1:], cell)
    value = fused(part, minus(right, left), left)
    return chosen(below(value, bottom), bottom, value)


@exact
def _tails(x, c, tables, before, behind):  # type: ignore[no-untyped-def]
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


@exact
def _step(row, goal, c, tables):  # type: ignore[no-untyped-def]
    """A bin's mass stands where the mean of what fell into it stands."""
    table, place, parts = tables[1][c], tables[2][c], splat(np.float32(PARTS))
    for start in range(0, row.size, LANES):
        i = min(start, row.size - LANES)
        x = load(row, i)
        cell, part = _located(x, tables[0][c])
        reached = least(gathered(place, cell), nearest(times(part, parts)))
        value = chosen(reached, gathered(table[1:], cell), gathered(table, cell))
        store(goal, i, chosen(unknown(x), x, value))


@exact
def _located(x, record):  # type: ignore[no-untyped-def]
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


@Kernel
def _smooth_single(data):  # type: ignore[no-untyped-def]
    _recall(data, np.float32, _smooth)


@Kernel
def _smooth_bfloat(data):  # type: ignore[no-untyped-def]
    _recall(data, np.uint16, _smooth)


@Kernel
def _smooth_half(data):  # type: ignore[no-untyped-def]
    _recall(data, np.int16, _smooth)


@Kernel
def _step_single(data):  # type: ignore[no-untyped-def]
    _recall(data, np.float32, _step)


@Kernel
def _step_bfloat(data):  # type: ignore[no-untyped-def]
    _recall(data, np.uint16, _step)


@Kernel
def _step_half(data):  # type: ignore[no-untyped-def]
    _recall(data, np.int16, _step)


_SMOOTH = {torch.float32: _smooth_single, torch.bfloat16: _smooth_bfloat}
_STEP = {torch.float32: _step_single, torch.bfloat16: _step_bfloat}
if CONVERTS:
    _SMOOTH[torch.float16], _STEP[torch.float16] = _smooth_half, _step_half
# What is read and written as it is; the rest as float32.
DTYPES = frozenset(_SMOOTH)
