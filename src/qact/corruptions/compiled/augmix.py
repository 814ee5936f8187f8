"""The operations of AugMix on one image after the other, see `qact.corruptions.augmix`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit


@inline
def _autocontrast(x: Any, table: Any) -> None:
    low, high = x.min(), x.max()
    # A reciprocal first, as torch divides a number by a tensor.
    scale = 1.0 / max(np.int64(high) - np.int64(low), 1) * 255.0
    for k in range(256):
        stretched = min(max(k * scale - low * scale, 0.0), 255.0)
        table[k] = np.uint8(stretched) if high > low else k


@inline
def _equalize(x: Any, count: Any, table: Any) -> None:
    """Pillow's rule: steps of the count without its last level, rounded from half a step on."""
    count[:] = 0
    for value in x:
        count[value] += 1
    step = (len(x) - count[x.max()]) // 255
    before = 0
    for k in range(256):
        table[k] = min((before + step // 2) // step, 255) if step > 0 else k
        before += count[k]


@inline
def _masked(which: Any, level: Any, table: Any) -> None:
    """The tables that do not depend on the image: fewer bits, or bright levels inverted."""
    dropped = 4 + np.int64(level * np.float32(4))
    threshold = 256 - np.int64(level * np.float32(256))
    for k in range(256):
        if which == 2:
            table[k] = k >> dropped << dropped
        else:
            table[k] = 255 - k if k >= threshold else k


@inline
def _matrix(which: Any, level: Any, sign: Any, turns: Any, h: Any, w: Any, m: Any) -> None:
    """The affine map (2, 3) of an operation from 4 on."""
    m[:] = 0
    m[0, 0] = m[1, 1] = 1
    if which == 4:
        m[:] = turns[int(np.floor(level * 30) * sign) + 30]
    elif which == 5:
        m[0, 1], m[0, 2] = level * 0.3 * sign, level * 0.3 * sign / 2
    elif which == 6:
        m[1, 0], m[1, 2] = level * 0.3 * sign, level * 0.3 * sign / 2
    elif which == 7:
        m[0, 2] = np.floor(level * (w / 3)) * sign
    else:
        m[1, 2] = np.floor(level * (h / 3)) * sign


@inline
def _bilinear(x: Any, m: Any, wide: Any, out: Any) -> None:
    """Samples of one image where the affine map ``m`` (2, 3) points to, black outside.

    ``wide`` (C, (H + 2) (W + 2)) holds the image with its border, which must be black before.
    """
    channels, h, w = x.shape
    pitch = w + 2
    for k in range(channels):
        for i in range(h):
            for j in range(w):
                wide[k, (i + 1) * pitch + j + 1] = np.float32(x[k, i, j])
    for i in range(h):
        for j in range(w):
            z = m[0, 0] * j + m[0, 1] * i + m[0, 2]
            y = m[1, 0] * j + m[1, 1] * i + m[1, 2]
            top, left = np.floor(y), np.floor(z)
            down, right = np.float32(y - top), np.float32(z - left)
            up, near = np.float32(1) - down, np.float32(1) - right
            r0 = int(min(max(top + 1, 0.0), h + 1.0)) * pitch
            r1 = int(min(max(top + 2, 0.0), h + 1.0)) * pitch
            c0 = int(min(max(left + 1, 0.0), w + 1.0))
            c1 = int(min(max(left + 2, 0.0), w + 1.0))
            a, b, c, d = up * near, up * right, down * near, down * right
            p, q, r, s = (
                np.uint64(r0 + c0),
                np.uint64(r0 + c1),
                np.uint64(r1 + c0),
                np.uint64(r1 + c1),
            )
            for k in range(channels):
                total = wide[k, p] * a + wide[k, q] * b
                out[k, i * w + j] = (total + wide[k, r] * c) + wide[k, s] * d


@jit
def _operate(x: Any, which: Any, level: Any, sign: Any, turns: Any) -> None:
    count, channels, h, w = x.shape
    table, counts = np.empty(256, np.uint8), np.empty(256, np.int64)
    m, wide = np.empty((2, 3)), np.zeros((channels, (h + 2) * (w + 2)), np.float32)
    out = np.empty((channels, h * w), np.float32)
    for n in range(count):
        if which[n] >= 4:
            _matrix(which[n], np.float64(level[n]), sign[n], turns, h, w, m)
            _bilinear(x[n], m, wide, out)
            for k in range(channels):
                to = x[n, k].reshape(h * w)
                for p in range(h * w):
                    to[p] = np.uint8(min(max(np.floor(out[k, p] + np.float32(0.5)), 0), 255))
        elif which[n] >= 0:
            for k in range(channels):
                flat = x[n, k].reshape(h * w)
                if which[n] == 0:
                    _autocontrast(flat, table)
                elif which[n] == 1:
                    _equalize(flat, counts, table)
                else:
                    _masked(which[n], level[n], table)
                for p in range(h * w):
                    flat[p] = table[flat[p]]


def operate(levels: Tensor, which: Tensor, level: Tensor, sign: Tensor, turns: Tensor) -> None:
    """Apply operation ``which`` (below 0: none) to each of (N, C, H, W) bytes, in place."""
    arrays = (t.numpy() for t in (which, level, sign, turns))
    _operate(levels.numpy(), *arrays)
