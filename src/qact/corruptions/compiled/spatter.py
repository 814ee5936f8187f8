"""Drops of water, see `qact.corruptions.spatter`, one image after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.compiled.border import framed
from qact.corruptions.compiled.canny import crests, gradient, joined
from qact.corruptions.compiled.jit import inline, jit

_FAR = 20  # pixels
_FARTHEST = np.float32(_FAR * _FAR)


@inline
def _distance(kind: Any, square: Any, wide: Any, out: Any) -> None:
    """Euclidean distance to the nearest edge, at most 20: down the columns, then along the rows.

    ``wide`` is as long as a row and 20 more on each side.
    """
    h, w = out.shape
    last = np.full(w, np.float32(_FAR))
    for i in range(h):  # steps to the last edge above
        for j in range(w):
            step = min(last[j] + np.float32(1), np.float32(_FAR))
            last[j] = np.float32(0) if kind[i + 1, j + 1] == 2 else step
            square[i, j] = last[j]
    for i in range(h - 2, -1, -1):
        for j in range(w):
            square[i, j] = min(square[i, j], square[i + 1, j] + np.float32(1))
    wide[:] = _FARTHEST
    row = wide[_FAR : _FAR + w]
    for i in range(h):
        best, most, k = out[i], np.int32(0), 1
        for j in range(w):
            row[j] = square[i, j] * square[i, j]
            best[j] = row[j]
            most = max(most, np.int32(row[j]))
        while k * k < most and k < w:
            more, left, right = np.float32(k * k), wide[_FAR - k :], wide[_FAR + k :]
            for j in range(w):
                best[j] = min(best[j], min(left[j], right[j]) + more)
            k += 1
        for j in range(w):
            best[j] = np.sqrt(best[j])


@inline
def _box(frame: Any, out: Any) -> None:
    """Mean of 3 x 3 pixels, added row by row."""
    h, w = out.shape
    for i in range(h):
        a, b, c, to = frame[i], frame[i + 1], frame[i + 2], out[i]
        for j in range(w):
            total = ((a[j] + a[j + 1]) + a[j + 2]) + b[j]
            total = ((total + b[j + 1]) + b[j + 2]) + c[j]
            to[j] = ((total + c[j + 1]) + c[j + 2]) / np.float32(9)


@inline
def _equalised(x: Any, out: Any) -> None:
    """Histogram equalisation of whole distances."""
    count, table = np.zeros(_FAR + 1, np.int64), np.empty(_FAR + 1, np.float32)
    for value in x.flat:
        count[int(value)] += 1
    lowest = 0
    while count[lowest] == 0:
        lowest += 1
    rest = x.size - count[lowest]
    # A reciprocal first, as torch divides a number by a tensor.
    total, unit = -count[lowest], 1.0 / max(rest, 1) * 255.0
    for k in range(_FAR + 1):
        total += count[k]
        scaled = np.rint(max(total, 0) * unit)
        table[k] = np.float32(min(scaled, 255.0)) if rest > 0 else np.float32(k)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = table[int(x[i, j])]


@inline
def _sharpened(frame: Any, out: Any) -> None:
    """Differences towards the lower right, as whole levels."""
    h, w = out.shape
    for i in range(h):
        above, at, below, to = frame[i], frame[i + 1], frame[i + 2], out[i]
        for j in range(w):
            rise = at[j + 1] + at[j + 2] + below[j + 1] + 2 * below[j + 2]
            fall = 2 * above[j] + above[j + 1] + at[j]
            to[j] = min(max(rise - fall, np.float32(0)), np.float32(255))


@jit
def _water(liquid: Any, threshold: Any, out: Any) -> None:
    count, h, w = liquid.shape
    depth, whole = np.empty((h, w), np.float32), np.empty((h, w), np.int32)
    frame, edges = np.empty((h + 2, w + 2), np.float32), np.empty((h + 2, w + 2), np.int32)
    dx, dy = np.empty((h, w), np.int32), np.empty((h, w), np.int32)
    size, stack = np.zeros((h + 2, w + 2), np.int32), np.empty(edges.size + 1, np.int64)
    kind, wide = np.zeros((h + 2, w + 2), np.uint8), np.empty(w + 2 * _FAR, np.float32)
    a, b = np.empty((h, w), np.float32), np.empty((h, w), np.float32)
    for n in range(count):
        for i in range(h):
            for j in range(w):
                drop = liquid[n, i, j] if liquid[n, i, j] >= threshold else np.float32(0)
                value = np.floor(drop * np.float32(255))
                depth[i, j] = min(max(value, np.float32(0)), np.float32(255))
                whole[i, j] = np.int32(depth[i, j])
        framed(whole, False, edges)
        gradient(edges, dx, dy, size)
        crests(size, dx, dy, 50, 150, kind)
        joined(kind, h, w, stack)
        _distance(kind, a, wide, b)
        framed(b, True, frame)
        _box(frame, a)
        for i in range(h):
            for j in range(w):
                a[i, j] = np.floor(a[i, j])
        _equalised(a, b)
        framed(b, True, frame)
        _sharpened(frame, a)
        framed(a, True, frame)
        _box(frame, b)
        most = np.float32(1)
        for i in range(h):
            for j in range(w):
                b[i, j] = depth[i, j] * np.rint(b[i, j])
                most = max(most, b[i, j])
        for i in range(h):
            for j in range(w):
                out[n, i, j] = b[i, j] / most


def water(liquid: Tensor, threshold: float) -> Tensor:
    """Opacity of the drops of ``liquid`` (N, H, W) where it reaches ``threshold``."""
    out = torch.empty(liquid.shape)
    _water(liquid.contiguous().numpy(), np.float32(threshold), out.numpy())
    return out
