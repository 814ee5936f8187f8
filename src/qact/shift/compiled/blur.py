"""Sums of shifted images, a few shifts in each sweep over memory.

The sums are those of the plain versions in `qact.shift.blur`, in their order. A plane is bordered
first; then a shift is one distance along its memory, for a whole block of rows at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.shift.blur import SIDEWAYS, disk_taps, line, mirror
from qact.shift.compiled.jit import inline, jit
from qact.shift.compiled.levels import level, planes
from qact.shift.random import Draws

_BLOCK = 2048  # values of a block of rows: it stays in the fastest cache


@inline
def _bordered(x: Any, rows: Any, columns: Any, left: Any, out: Any) -> None:
    """Write the pixels at ``rows`` and ``columns``, which are those of ``x`` from ``left`` on."""
    pitch, w = len(columns), x.shape[1]
    for i in range(len(rows)):
        source, to = x[rows[i]], out[i * pitch : i * pitch + pitch]
        for j in range(left):
            to[j] = source[columns[j]]
        for j in range(left + w, pitch):
            to[j] = source[columns[j]]
        inner = to[left : left + w]
        for j in range(w):
            inner[j] = source[j]


@inline
def _four(x: Any, shifts: Any, t: Any, start: Any) -> Any:
    """``x`` from ``start`` plus each of four shifts on."""
    a, b = x[start + shifts[t] :], x[start + shifts[t + 1] :]
    return a, b, x[start + shifts[t + 2] :], x[start + shifts[t + 3] :]


@inline
def _added(x: Any, shifts: Any, start: Any, n: Any, out: Any) -> None:
    """The sum of ``x`` from ``start`` plus each of the shifts on, ``n`` values."""
    out[:n] = 0
    t = 0
    while len(shifts) - t >= 8:
        a, b, c, d = _four(x, shifts, t, start)
        e, f, g, h = _four(x, shifts, t + 4, start)
        for p in range(n):
            some = (((out[p] + a[p]) + b[p]) + c[p]) + d[p]
            out[p] = (((some + e[p]) + f[p]) + g[p]) + h[p]
        t += 8
    if len(shifts) - t >= 4:
        a, b, c, d = _four(x, shifts, t, start)
        for p in range(n):
            out[p] = (((out[p] + a[p]) + b[p]) + c[p]) + d[p]
        t += 4
    while t < len(shifts):
        a = x[start + shifts[t] :]
        for p in range(n):
            out[p] += a[p]
        t += 1


@inline
def _ring(x: Any, shifts: Any, weight: Any, start: Any, n: Any, total: Any, sums: Any) -> None:
    """Add to ``sums`` the places of one weight; most of a disk's weights have eight or four."""
    if len(shifts) == 8:
        a, b, c, d = _four(x, shifts, 0, start)
        e, f, g, h = _four(x, shifts, 4, start)
        for p in range(n):
            some = ((a[p] + b[p]) + c[p]) + d[p]
            sums[p] += ((((some + e[p]) + f[p]) + g[p]) + h[p]) * weight
    elif len(shifts) == 4:
        a, b, c, d = _four(x, shifts, 0, start)
        for p in range(n):
            sums[p] += (((a[p] + b[p]) + c[p]) + d[p]) * weight
    else:
        _added(x, shifts, start, n, total)
        for p in range(n):
            sums[p] += total[p] * weight


@jit
def _defocus(
    x: Any, rows: Any, columns: Any, weights: Any, ends: Any, places: Any, out: Any
) -> None:
    count, h, w = x.shape
    pitch = len(columns)
    wide = np.empty(len(rows) * pitch, np.float32)
    block = max(1, _BLOCK // pitch)
    total, sums = np.empty(block * pitch, np.float32), np.empty(block * pitch, np.float32)
    shifts = places[:, 0] * pitch + places[:, 1]
    for m in range(count):
        _bordered(x[m], rows, columns, (pitch - w) // 2, wide)
        for top in range(0, h, block):
            here = min(block, h - top)
            n = (here - 1) * pitch + w
            sums[:n] = 0
            for k in range(len(weights)):
                places_of = shifts[ends[k] : ends[k + 1]]
                _ring(wide, places_of, weights[k], top * pitch, n, total, sums)
            for i in range(here):
                for j in range(w):
                    out[m, top + i, j] = level(sums[i * pitch + j]) / np.float32(255)


@inline
def _weighted(x: Any, shifts: Any, weights: Any, start: Any, n: Any, out: Any) -> None:
    """As :func:`_added`, each shifted ``x`` times its weight."""
    t = 0
    while len(shifts) - t >= 4:
        a, b = x[start + shifts[t] :], x[start + shifts[t + 1] :]
        c, d = x[start + shifts[t + 2] :], x[start + shifts[t + 3] :]
        u, v, y, z = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        for p in range(n):
            out[p] = (((out[p] + a[p] * u) + b[p] * v) + c[p] * y) + d[p] * z
        t += 4
    while t < len(shifts):
        a, u = x[start + shifts[t] :], weights[t]
        for p in range(n):
            out[p] += a[p] * u
        t += 1


@jit
def _motion(x: Any, weights: Any, offsets: Any, finished: Any, out: Any) -> None:
    images, channels, h, w = x.shape
    reach = 0
    for offset in offsets.flat:
        reach = max(reach, abs(offset))
    wide = np.empty((h + 2 * reach) * (w + 2 * reach), np.float32)
    sums = np.empty(max(_BLOCK, w + 2 * reach), np.float32)
    for n in range(images):
        up, left = min(0, offsets[n, :, 0].min()), min(0, offsets[n, :, 1].min())
        down, right = max(0, offsets[n, :, 0].max()), max(0, offsets[n, :, 1].max())
        rows = np.minimum(np.maximum(np.arange(up, h + down), 0), h - 1)
        columns = np.minimum(np.maximum(np.arange(left, w + right), 0), w - 1)
        pitch = len(columns)
        shifts = (offsets[n, :, 0] - up) * pitch + offsets[n, :, 1] - left
        block = max(1, _BLOCK // pitch)
        for k in range(channels):
            _bordered(x[n, k], rows, columns, -left, wide)
            for top in range(0, h, block):
                here = min(block, h - top)
                size = (here - 1) * pitch + w
                sums[:size] = 0
                _weighted(wide, shifts, weights, top * pitch, size, sums)
                for i in range(here):
                    for j in range(w):
                        value = sums[i * pitch + j]
                        done = level(value) / np.float32(255) if finished else value
                        out[n, k, top + i, j] = done


@lru_cache(maxsize=32)
def _taps(radius: float, alias: float) -> tuple[int, tuple[np.ndarray, ...]]:
    """Reach of the disk, its weights, where the places of each end, and the places (T, 2)."""
    reach, taps = disk_taps(radius, alias)
    weights = np.array([weight for weight, _ in taps], np.float32)
    ends = np.cumsum([0] + [len(places) for _, places in taps])
    return reach, (weights, ends, np.concatenate([places for _, places in taps]))


def defocus_blur(x: Tensor, constant: tuple[float, float], draws: Draws, out: Tensor) -> None:
    """See :func:`qact.shift.blur.defocus_blur`."""
    reach, taps = _taps(*constant)
    rows, columns = (mirror(np.arange(-reach, s + reach), s) for s in x.shape[2:])
    source, to = planes(x, out)
    _defocus(source, rows, columns, *taps, to)


def motion(
    x: Tensor, weights: list[float], offsets: Tensor, finished: Tensor | None = None
) -> Tensor:
    """See :func:`qact.shift.blur.motion`; ``offsets`` (N, taps, 2) are those of each image.

    With ``finished`` the results are rounded to 8 bits and written there.
    """
    out = torch.empty(x.shape) if finished is None else finished
    taps = np.array(weights, np.float32)
    arrays = (t.contiguous().numpy() for t in (x, offsets, out))
    source, places, to = arrays
    _motion(source, taps, places, finished is not None, to)
    return out


def motion_blur(x: Tensor, constant: tuple[int, float], draws: Draws, out: Tensor) -> None:
    """See :func:`qact.shift.blur.motion_blur`."""
    motion(x, *line(*constant, SIDEWAYS, draws), finished=out)
