"""Affine maps, see `qact.corruptions.affine`, one image after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.compiled.jit import inline, jit


@inline
def bilinear(x: Any, m: Any, wide: Any, out: Any) -> None:
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
def _warp(x: Any, matrix: Any, out: Any) -> None:
    count, channels, h, w = x.shape
    wide = np.zeros((channels, (h + 2) * (w + 2)), np.float32)
    for n in range(count):
        bilinear(x[n], matrix[n], wide, out[n])


def warp(x: Tensor, matrix: Tensor) -> Tensor:
    """See :func:`qact.corruptions.affine.warp`; float32 and float64."""
    out = torch.empty(x.shape)
    _warp(x.contiguous().numpy(), matrix.contiguous().numpy(), out.flatten(2).numpy())
    return out
