"""Pixelate, see `qact.corruptions.digital.pixelate`, one plane after the other, in integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit

_LANES = 16  # whole registers, which leave no rest to loops over them


@inline
def _rounded(total: Any) -> Any:
    """The integer over 2^22 as a level, halves upwards."""
    return np.int32(np.floor(np.float32(total) * np.float32(2.0**-22) + np.float32(0.5)))


@inline
def _narrowed(levels: Any, first: Any, weights: Any, out: Any) -> None:
    """Sums of the levels from each of ``first`` on, by ``weights`` (taps, results)."""
    out[:] = 0
    for t in range(len(weights)):
        source, weight = levels[t:], weights[t]
        for j in range(len(out)):
            out[j] = np.int32(out[j] + np.int32(weight[j] * source[first[j]]))


@jit
def _pixelate(x: Any, across: Any, down: Any, row_of: Any, column_of: Any, out: Any) -> None:
    count, h, w = x.shape
    rows, columns = len(down[1]), len(across[0])
    levels, narrow = np.zeros(w + len(across[2]), np.int32), np.empty((h, columns), np.int32)
    small, total = np.empty(columns, np.float32), np.empty(columns, np.int32)
    wide = np.empty(w, np.float32)
    for m in range(count):
        for i in range(h):
            for j in range(w):
                levels[j] = np.int32(np.rint(x[m, i, j] * np.float32(255)))
            _narrowed(levels, across[0], across[2], total)
            for j in range(columns):
                narrow[i, j] = _rounded(total[j])
        i = 0
        for r in range(rows):
            total[:] = 0
            for k in range(np.int64(down[0][r]), down[1][r]):
                weight, source = down[2][k - down[0][r], r], narrow[k]
                for j in range(columns):
                    total[j] = np.int32(total[j] + np.int32(weight * source[j]))
            for j in range(columns):
                small[j] = np.float32(_rounded(total[j])) / np.float32(255)
            for j in range(w):
                wide[j] = small[column_of[j]]
            while i < h and row_of[i] == r:
                to = out[m, i]
                for j in range(w):
                    to[j] = wide[j]
                i += 1


def _packed(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First sample, one past the last, and weights (taps, out): integers over 2^22.

    A sum over levels has 30 bits. Zeros fill results up to whole registers.
    """
    used = weights != 0
    first, last = used.argmax(1), weights.shape[1] - used[:, ::-1].argmax(1)
    whole = np.zeros((int((last - first).max()), len(weights) + -len(weights) % _LANES), np.int32)
    for row, (start, stop) in enumerate(zip(first, last, strict=True)):
        whole[: stop - start, row] = weights[row, start:stop] * 2**22
    return np.pad(first, (0, -len(first) % _LANES)).astype(np.uint32), last, whole


def pixelate(
    x: Tensor, down: np.ndarray, across: np.ndarray, row_of: np.ndarray, column_of: np.ndarray
) -> Tensor:
    """Shrink by the weights of rows and of columns, and take each pixel's row and column."""
    out = torch.empty(x.shape)
    source, to = x.flatten(0, 1).numpy(), out.flatten(0, 1).numpy()
    _pixelate(source, _packed(across), _packed(down), row_of, column_of, to)
    return out
