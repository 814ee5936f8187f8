"""JPEG compression of one image after the other, see `qact.corruptions.jpeg`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from qact.corruptions.compiled.dct import LANES, SIZE, coded
from qact.corruptions.compiled.jit import inline, jit
from qact.corruptions.compiled.ycc import scaled, to_rgb, to_ycc
from qact.corruptions.jpeg import quantisation_table
from qact.corruptions.random import Draws

_i = np.int32


@inline
def _read(x: Any, out: Any) -> None:
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = _i(np.rint(x[i, j] * np.float32(255)))


@inline
def _replicated(x: Any, h: Any, w: Any) -> None:
    """Repeat the last of ``h`` rows and of ``w`` columns up to the size of ``x``."""
    for i in range(h):
        for j in range(w, x.shape[1]):
            x[i, j] = x[i, w - 1]
    for i in range(h, x.shape[0]):
        x[i] = x[h - 1]


@inline
def _halved(x: Any, out: Any) -> None:
    """Mean of 2x2 pixels; the rounding bias alternates 1, 2, 1, 2 along a row."""
    for i in range(x.shape[0] // 2):
        for j in range(x.shape[1] // 2):
            top = _i(x[2 * i, 2 * j] + x[2 * i, 2 * j + 1])
            total = _i(top + x[2 * i + 1, 2 * j] + x[2 * i + 1, 2 * j + 1])
            out[i, j] = _i(_i(total + _i(1 + (j & 1))) >> 2)


@inline
def _blocks(x: Any, steps: Any, work: Any) -> None:
    """Code the blocks of a plane whose sides are multiples of 8, eight at a time, in place."""
    across = x.shape[1] // 8
    count = x.shape[0] // 8 * across
    for start in range(0, count, LANES):
        here = min(LANES, count - start)
        for m in range(here):
            top, left = (start + m) // across * 8, (start + m) % across * 8
            for k in range(8):
                for j in range(8):
                    work[(k * 8 + j) * LANES + m] = _i(x[top + k, left + j] - 128)
        coded(work, steps)
        for m in range(here):
            top, left = (start + m) // across * 8, (start + m) % across * 8
            for k in range(8):
                for j in range(8):
                    value = _i(work[(k * 8 + j) * LANES + m] + 128)
                    x[top + k, left + j] = min(max(value, _i(0)), _i(255))


@inline
def _doubled(x: Any, i: Any, rows: Any, columns: Any, mixed: Any, out: Any) -> None:
    """Row ``i`` of a plane (rows, columns) twice as large: weights 3/4 and 1/4 along each axis."""
    at = i // 2
    if columns <= 2:  # libjpeg falls back to plain repetition
        for j in range(columns):
            out[2 * j] = out[2 * j + 1] = x[at, j]
        return
    near, far = x[at], x[max(at - 1, 0) if i % 2 == 0 else min(at + 1, rows - 1)]
    for j in range(columns):
        mixed[j + 1] = _i(far[j] + _i(3 * near[j]))
    mixed[0], mixed[columns + 1] = mixed[1], mixed[columns]
    for j in range(columns):
        middle = _i(3 * mixed[j + 1])
        out[2 * j] = _i(_i(mixed[j] + middle + 8) >> 4)
        out[2 * j + 1] = _i(_i(mixed[j + 2] + middle + 7) >> 4)


@jit
def _colour(x: Any, luma: Any, chroma: Any, out: Any) -> None:
    h, w = x.shape[2:]
    rows, columns = (h + 1) // 2, (w + 1) // 2
    high, wide = (rows + 7) // 8 * 8, (columns + 7) // 8 * 8
    work, full = np.zeros(SIZE, np.int32), np.empty((3, 2 * high, 2 * wide), np.int32)
    small = np.empty((2, high, wide), np.int32)
    mixed, lines = np.empty(columns + 2, np.int32), np.empty((2, 2 * columns), np.int32)
    y = np.empty(((h + 7) // 8 * 8, (w + 7) // 8 * 8), np.int32)
    for n in range(len(x)):
        for k in range(3):
            _read(x[n, k], full[k])
        to_ycc(full[0, :h, :w], full[1, :h, :w], full[2, :h, :w])
        y[:h, :w] = full[0, :h, :w]
        _replicated(y, h, w)
        _blocks(y, luma, work)
        for k in range(2):
            _replicated(full[k + 1, : 2 * rows], h, w)
            _halved(full[k + 1, : 2 * rows], small[k])
            _replicated(small[k], rows, wide)
            _blocks(small[k], chroma, work)
        for i in range(h):
            for k in range(2):
                _doubled(small[k], i, rows, columns, mixed, lines[k])
            to_rgb(y[i], lines[0], lines[1], i, out[n])


@jit
def _grey(x: Any, luma: Any, out: Any) -> None:
    h, w = x.shape[2:]
    work = np.zeros(SIZE, np.int32)
    y = np.empty(((h + 7) // 8 * 8, (w + 7) // 8 * 8), np.int32)
    for n in range(len(x)):
        _read(x[n, 0], y)
        _replicated(y, h, w)
        _blocks(y, luma, work)
        for i in range(h):
            for j in range(w):
                out[n, 0, i, j] = scaled(y[i, j])


@lru_cache(maxsize=64)
def _steps(quality: int, chroma: bool) -> np.ndarray:
    return np.array(quantisation_table(quality, chroma), np.int32).ravel()


def jpeg_compression(x: Tensor, quality: int, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.jpeg.jpeg_compression`."""
    luma = _steps(quality, chroma=False)
    if x.shape[1] == 1:
        _grey(x.numpy(), luma, out.numpy())
    else:
        _colour(x.numpy(), luma, _steps(quality, chroma=True), out.numpy())
