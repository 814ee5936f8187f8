"""A stored context: a cubic, or one interpolation, or one step per value; nothing else is read.

Values are read and written in the order of memory, sixteen at a time, in their own precision.
"""

from __future__ import annotations

from array import array

import numpy as np
import torch
from torch import Tensor

from qact.kernels.columns import PARTS
from qact.kernels.cpu.frame import FIRST, cube, opened, plane
from qact.kernels.cpu.jit import Kernel, exact, inline
from qact.kernels.cpu.lanes import (
    CONVERTS,
    LANES,
    PERMUTES,
    below,
    bits,
    chosen,
    either,
    fused,
    gathered,
    least,
    load,
    minus,
    nearest,
    permuted,
    plus,
    some,
    splat,
    store,
    times,
    transpose,
    unknown,
)
from qact.kernels.cpu.memory import empty
from qact.kernels.cpu.pages import empty_like
from qact.kernels.cpu.pool import run, share
from qact.kernels.cpu.record import BEGIN, CENTRE, END, FAR, LEAST, RATE, prepared
from qact.kernels.cpu.tabulated import line, located, tails
from qact.kernels.stored import Stored
from qact.rank.layout import channels_last, memory_order

# Short runs of a channel are put together to so many values.
CHUNK = 256
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
        made = stored.made.setdefault("cpu", prepared(stored))
    frame = made[0][:]
    frame[FIRST : FIRST + 8] = array("q", (input.data_ptr(), *shape, out.data_ptr(), *shape))
    run(kernels[input.dtype], frame, shape[1], input.numel())
    return out


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
            value = chosen(beyond, tails(x, c, tables, before, behind), value)
        store(goal, i, value)


@exact
def _straight(row, goal, c, tables):  # type: ignore[no-untyped-def]
    """By lines alone: for processors that cannot look coefficients up in a register."""
    for start in range(0, row.size, LANES):
        i = min(start, row.size - LANES)
        x = load(row, i)
        store(goal, i, chosen(unknown(x), x, line(x, c, tables)))


_smooth = _curve if PERMUTES else _straight


@exact
def _step(row, goal, c, tables):  # type: ignore[no-untyped-def]
    """A bin's mass stands where the mean of what fell into it stands."""
    table, place, parts = tables[1][c], tables[2][c], splat(np.float32(PARTS))
    for start in range(0, row.size, LANES):
        i = min(start, row.size - LANES)
        x = load(row, i)
        cell, part = located(x, tables[0][c])
        reached = least(gathered(place, cell), nearest(times(part, parts)))
        value = chosen(reached, gathered(table[1:], cell), gathered(table, cell))
        store(goal, i, chosen(unknown(x), x, value))


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
