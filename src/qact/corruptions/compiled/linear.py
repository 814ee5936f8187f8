"""Matrices along two axes, see `qact.corruptions.linear`: sums without rounding, in any order.

Planes lie side by side, so that the inner loops are long, and are turned between the axes, so that
they run along memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.blur import gaussian
from qact.corruptions.compiled.jit import exact, inline
from qact.corruptions.compiled.levels import onto, planes
from qact.corruptions.random import Draws

_LANES = 96  # the length of inner loops


@inline
def _combined(x: Any, first: Any, last: Any, weights: Any, n: Any, out: Any) -> None:
    """The sum of the rows ``first ... last`` of ``x`` by their weights."""
    for j in range(n):
        out[j] = 0
    k, t = first, 0
    while last - k >= 4:
        a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        p, q, r, s = x[k], x[k + 1], x[k + 2], x[k + 3]
        for j in range(n):
            out[j] += (a * p[j] + b * q[j]) + (c * r[j] + d * s[j])
        k, t = k + 4, t + 4
    while k < last:
        a, p = weights[t], x[k]
        for j in range(n):
            out[j] += a * p[j]
        k, t = k + 1, t + 1


@exact
def _along(x: Any, vertical: Any, horizontal: Any, group: Any, finished: Any, out: Any) -> None:
    count, h, w = x.shape
    rows, columns = out.shape[1:]
    fixed, down = np.empty((h, group * w)), np.empty((rows, group * w))
    turned, across = np.empty((w, group * rows)), np.empty((columns, group * rows), np.float32)
    work = np.empty(group * rows)
    for m in range(0, count, group):
        here = min(group, count - m)
        for k in range(here):
            for i in range(h):
                to = fixed[i, k * w : k * w + w]
                for j in range(w):
                    to[j] = np.rint(x[m + k, i, j] * np.float32(2.0**20))
        for i in range(rows):
            to = down[i]
            _combined(fixed, vertical[0][i], vertical[1][i], vertical[2][i], here * w, to)
            for j in range(here * w):
                to[j] = np.rint(to[j] * 2.0**-24)
        for k in range(here):
            for j in range(w):
                to = turned[j, k * rows : k * rows + rows]
                for i in range(rows):
                    to[i] = down[i, k * w + j]
        for j in range(columns):
            first, last, to = horizontal[0][j], horizontal[1][j], across[j]
            _combined(turned, first, last, horizontal[2][j], here * rows, work)
            for i in range(here * rows):
                to[i] = np.float32(work[i] * 2.0**-44)
            if finished:
                onto(to, to)
        for k in range(here):
            for i in range(rows):
                to = out[m + k, i]
                for j in range(columns):
                    to[j] = across[j, k * rows + i]


def along(
    vertical: tuple[np.ndarray, ...],
    horizontal: tuple[np.ndarray, ...],
    images: Tensor,
    finished: Tensor | None = None,
) -> Tensor:
    """See :func:`qact.corruptions.linear.along`; bands (first, last, weights).

    With ``finished`` the results are rounded to 8 bits and written there.
    """
    n, c, h, w = images.shape
    out = finished
    if out is None:
        out = torch.empty(n, c, len(vertical[0]), len(horizontal[0]))
    x, to = planes(images.contiguous(), out)
    _along(x, vertical, horizontal, max(1, _LANES // max(h, w)), finished is not None, to)
    return out


def gaussian_blur(x: Tensor, sigma: float, draws: Draws, out: Tensor) -> None:
    """See :func:`qact.corruptions.blur.gaussian_blur`."""
    vertical, horizontal = (gaussian(sigma, size).band for size in x.shape[2:])
    along(vertical, horizontal, x, finished=out)
