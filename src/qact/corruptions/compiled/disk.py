"""Defocus: sums of shifted images, up to eight shifts in each sweep over memory.

The sums are those of the plain version in `qact.corruptions.blur`, in their order. A plane is
bordered first; then a shift is one distance along its memory, for a whole block of rows at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.blur import disk_taps, mirror
from qact.corruptions.compiled.border import BLOCK, bordered
from qact.corruptions.compiled.jit import inline, jit


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
    block = max(1, BLOCK // pitch)
    total, sums = np.empty(block * pitch, np.float32), np.empty(block * pitch, np.float32)
    shifts = places[:, 0] * pitch + places[:, 1]
    for m in range(count):
        bordered(x[m], rows, columns, (pitch - w) // 2, wide)
        for top in range(0, h, block):
            here = min(block, h - top)
            n = (here - 1) * pitch + w
            sums[:n] = 0
            for k in range(len(weights)):
                places_of = shifts[ends[k] : ends[k + 1]]
                _ring(wide, places_of, weights[k], top * pitch, n, total, sums)
            for i in range(here):
                for j in range(w):
                    out[m, top + i, j] = sums[i * pitch + j]


@lru_cache(maxsize=32)
def _taps(radius: float, alias: float) -> tuple[int, tuple[np.ndarray, ...]]:
    """Reach of the disk, its weights, where the places of each end, and the places (T, 2)."""
    reach, taps = disk_taps(radius, alias)
    weights = np.array([weight for weight, _ in taps], np.float32)
    ends = np.cumsum([0] + [len(places) for _, places in taps])
    return reach, (weights, ends, np.concatenate([places for _, places in taps]))


def defocus(x: Tensor, radius: float, alias: float) -> Tensor:
    """See :func:`qact.corruptions.blur.defocus_blur`."""
    reach, taps = _taps(radius, alias)
    rows, columns = (mirror(np.arange(-reach, s + reach), s) for s in x.shape[2:])
    out = torch.empty(x.shape)
    _defocus(x.flatten(0, 1).numpy(), rows, columns, *taps, out.flatten(0, 1).numpy())
    return out
