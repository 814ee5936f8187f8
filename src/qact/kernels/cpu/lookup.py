"""A stored context: one interpolation, or one step, per value; nothing else is read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qact.kernels.columns import PARTS
from qact.kernels.cpu.frame import cube, line, opened, pack, plane, put
from qact.kernels.cpu.jit import Kernel, jit
from qact.kernels.cpu.pool import run, share
from qact.kernels.cpu.rows import CHUNK, block, copy, gather, interpolate, locate, scatter, stretch
from qact.kernels.stored import Stored

# Runs of this many neighbours are worked on where they stand; shorter ones are gathered first.
RUN = 256


def lookup(z: Tensor, stored: Stored) -> Tensor:
    """The activation of ``z`` (N, C, L) in a stored context, float32."""
    z = z.float().contiguous()
    out = torch.empty_like(z)
    if "cpu" not in stored.made:
        stored.made["cpu"] = pack([z, out, *stored.tensors], [])
    frame = stored.made["cpu"][:]
    put(frame, 0, z)
    put(frame, 1, out)
    run(_lookup_kernel, frame, z.shape[1], z.numel())
    return out


@Kernel
def _lookup_kernel(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    z, out, table, place = cube(frame, 0), cube(frame, 1), plane(frame, 2, f), plane(frame, 3, f)
    inverse, offset = line(frame, 4, f), line(frame, 5, np.int64)
    scale, shift, least = line(frame, 6, f), line(frame, 7, f), line(frame, 8, f)
    first, last = share(frame, z.shape[1])
    outer, _, inner = z.shape
    cell, part, line_ = np.empty(CHUNK, np.uint32), np.empty(CHUNK, f), np.empty(inner, f)
    if inner >= RUN:
        for c in range(first, last):
            for n in range(outer):
                copy(z[n, c], line_)
                goal = out[n, c]
                _row(line_, c, table, place, inverse, offset, scale, shift, least, cell, part, goal)
        return
    width = block(inner)
    rows, goals = np.empty((width, outer * inner), f), np.empty((width, outer * inner), f)
    for start in range(first, last, width):
        channels = min(width, last - start)
        gather(z, start, channels, rows)
        for c in range(start, start + channels):
            row, goal = rows[c - start], goals[c - start]
            _row(row, c, table, place, inverse, offset, scale, shift, least, cell, part, goal)
        scatter(goals, start, channels, out)


@jit
def _row(row, c, table, place, inverse, offset, scale, shift, least, cell, part, goal):  # type: ignore[no-untyped-def]
    bins = table.shape[1] - 2
    if scale[c] != 1 or shift[c] != 0:
        stretch(row, scale[c], shift[c])
    if place.shape[1] == 0:
        low, first = np.float32(least[c]), offset[c]
        interpolate(row, inverse[c], first, bins, table[c], low, cell, part, goal)
    else:
        _step(row, inverse[c], offset[c], bins, table[c], place[c], cell, part, goal)
    spoil(row, goal)


@jit
def _step(row, inverse, offset, bins, table, place, cell, part, goal):  # type: ignore[no-untyped-def]
    """A bin's mass stands where the mean of what fell into it stands."""
    for start in range(0, row.size, CHUNK):
        chunk, target = row[start : start + CHUNK], goal[start : start + CHUNK]
        locate(chunk, inverse, offset, bins, cell, part)
        for i in range(target.size):
            k = cell[i]
            reached = np.uint32(np.rint(part[i] * PARTS) >= place[k])
            target[i] = table[k + reached]


@jit
def spoil(row, goal):  # type: ignore[no-untyped-def]
    """What is not a number stays so: found on the bits, since arithmetic here assumes numbers."""
    bits, out = row.view(np.int32), goal.view(np.int32)
    for i in range(bits.size):
        b = bits[i]
        out[i] = b if (b & np.int32(0x7FFFFFFF)) > np.int32(0x7F800000) else out[i]
