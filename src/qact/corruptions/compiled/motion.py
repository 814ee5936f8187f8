"""Motion blur: weighted sums of shifted images, four shifts in each sweep over memory.

A plane is bordered first; then a shift is one distance along its memory, for a block of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit

BLOCK = 2048  # values of a block of rows: it stays in the fastest cache


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
def _weighted(x: Any, shifts: Any, weights: Any, start: Any, n: Any, out: Any) -> None:
    """The sum of ``n`` values of ``x`` from ``start`` plus each of the shifts on, weighted."""
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
def _motion(x: Any, weights: Any, offsets: Any, out: Any) -> None:
    images, channels, h, w = x.shape
    reach = 0
    for offset in offsets.flat:
        reach = max(reach, abs(offset))
    wide = np.empty((h + 2 * reach) * (w + 2 * reach), np.float32)
    sums = np.empty(max(BLOCK, w + 2 * reach), np.float32)
    for n in range(images):
        up, left = min(0, offsets[n, :, 0].min()), min(0, offsets[n, :, 1].min())
        down, right = max(0, offsets[n, :, 0].max()), max(0, offsets[n, :, 1].max())
        rows = np.minimum(np.maximum(np.arange(up, h + down), 0), h - 1)
        columns = np.minimum(np.maximum(np.arange(left, w + right), 0), w - 1)
        pitch = len(columns)
        shifts = (offsets[n, :, 0] - up) * pitch + offsets[n, :, 1] - left
        block = max(1, BLOCK // pitch)
        for k in range(channels):
            _bordered(x[n, k], rows, columns, -left, wide)
            for top in range(0, h, block):
                here = min(block, h - top)
                size = (here - 1) * pitch + w
                sums[:size] = 0
                _weighted(wide, shifts, weights, top * pitch, size, sums)
                for i in range(here):
                    for j in range(w):
                        out[n, k, top + i, j] = sums[i * pitch + j]


def motion(x: Tensor, weights: list[float], offsets: Tensor) -> Tensor:
    """See :func:`qact.corruptions.blur.motion`; ``offsets`` (N, taps, 2) of each image."""
    out = torch.empty(x.shape, dtype=torch.float32)
    source, places = x.contiguous().numpy(), offsets.contiguous().numpy()
    _motion(source, np.array(weights, np.float32), places, out.numpy())
    return out
