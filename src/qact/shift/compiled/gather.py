"""Pixels from other places, in one pass on a CPU, compiled by Numba.

Products and sums of float32 in the order of the plain versions in `qact.shift.elastic` and
`qact.shift.blur`, so the bits are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.shift.compiled.jit import inline, jit


@inline
def _inside(place: Any, size: Any, mirrored: Any) -> Any:
    """The border rules ``mirror`` and ``reflect`` of a whole float32 place."""
    period = np.float32(max(2 * size - 2, 1) if mirrored else 2 * size)
    place = place - np.floor(place / period) * period
    other = np.float32(2 * size - 2) - place if mirrored else np.float32(2 * size - 1) - place
    return np.int64(min(place, abs(other)))


@jit
def _sample(x: Any, y: Any, z: Any, mirrored: Any, out: Any) -> None:
    images, channels, h, w = x.shape
    one = np.float32(1)
    for n in range(images):
        for i in range(h):
            for j in range(w):
                top, left = np.floor(y[n, i, j]), np.floor(z[n, i, j])
                down, right = y[n, i, j] - top, z[n, i, j] - left
                r0, r1 = _inside(top, h, mirrored), _inside(top + one, h, mirrored)
                c0, c1 = _inside(left, w, mirrored), _inside(left + one, w, mirrored)
                up, near = one - down, one - right
                a, b, c, d = up * near, up * right, down * near, down * right
                for k in range(channels):
                    total = x[n, k, r0, c0] * a
                    total = total + x[n, k, r0, c1] * b
                    total = total + x[n, k, r1, c0] * c
                    out[n, k, i, j] = total + x[n, k, r1, c1] * d


def sample(x: Tensor, y: Tensor, z: Tensor, mirrored: bool) -> Tensor:
    """See :func:`qact.shift.elastic.sample`; all float32."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    arrays = (t.contiguous().numpy() for t in (x, y, z))
    _sample(*arrays, mirrored, out.numpy())
    return out
