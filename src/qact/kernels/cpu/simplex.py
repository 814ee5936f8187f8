"""Rows onto the simplex: sparsemax and 1.5-entmax, forward and backward, without a sort.

A row is worked through while it is in the cache: a handful of passes find its threshold, see
:func:`qact.kernels.simplex.threshold`, one writes its weights, and nothing else is stored.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qact.kernels.cpu.frame import numbers, opened, pack, plane
from qact.kernels.cpu.jit import Kernel, jit
from qact.kernels.cpu.pool import run, share
from qact.kernels.cpu.rows import fill

STEPS = 64
TOLERANCE = np.float32(4e-7)


def forward(z: Tensor, alpha: float) -> Tensor:
    """Weights of rows ``z`` (R, n), float32 and contiguous; ``alpha`` is 1.5 or 2."""
    out = torch.empty_like(z)
    run(_forward, pack([z, out], [alpha]), z.shape[0], z.numel())
    return out


def backward(p: Tensor, grad: Tensor, alpha: float) -> Tensor:
    """``dL/dz`` from the weights and ``dL/dp``, both (R, n)."""
    out = torch.empty_like(p)
    run(_backward, pack([p, grad, out], [alpha]), p.shape[0], p.numel())
    return out


@Kernel
def _forward(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    z, out = plane(frame, 0, f), plane(frame, 1, f)
    square = numbers(frame, 2)[0] < 1.75
    first, last = share(frame, z.shape[0])
    for r in range(first, last):
        row, goal = z[r], out[r]
        top = _top(row)
        if not _finite(row):
            fill(goal, np.nan)
        elif top == -np.inf:
            fill(goal, 0)
        elif square:
            _squares(row, top, _root(row, top, True), goal)
        else:
            _gaps(row, top, _root(row, top, False), goal)


@jit
def _top(row):  # type: ignore[no-untyped-def]
    top = np.float32(-np.inf)
    for i in range(row.size):
        top = max(top, row[i])
    return top


@jit
def _finite(row):  # type: ignore[no-untyped-def]
    """Whether no value is NaN or +inf: found on the bits, since arithmetic here assumes numbers."""
    bits, bad = row.view(np.int32), np.int32(0)
    for i in range(bits.size):
        b = bits[i]
        beyond = (b & np.int32(0x7FFFFFFF)) > np.int32(0x7F800000)
        bad |= np.int32(beyond) | np.int32(b == np.int32(0x7F800000))
    return bad == 0


@jit
def _root(row, top, square):  # type: ignore[no-untyped-def]
    """The threshold of a row by Newton steps on the norm of the gaps, safeguarded by bisection."""
    f, n = np.float32, row.size
    low, high = f(-1), f(-1 / (math.sqrt(n) if square else n))
    t, last = low, f(2)
    for _ in range(STEPS):
        if square:
            total, slope = _square_sums(row, top, t)
            norm = np.sqrt(total)
            step = (norm - 1) * norm / slope
        else:
            total, slope = _gap_sums(row, top, t)
            step = (total - 1) / slope
        if total >= 1:
            low = t
        else:
            high = t
        new = t + step
        if not (low <= new <= high) or abs(step) > abs(last) / 2:
            new = (low + high) / 2
        last = new - t
        t = new
        if abs(last) <= TOLERANCE:
            break
    return t


@jit
def _gap_sums(row, top, t):  # type: ignore[no-untyped-def]
    f = np.float32
    total, count = f(0), f(0)
    for i in range(row.size):
        gap = (row[i] - top) - t
        total += max(gap, f(0))
        count += f(1) if gap > 0 else f(0)
    return total, count


@jit
def _square_sums(row, top, t):  # type: ignore[no-untyped-def]
    f = np.float32
    total, slope = f(0), f(0)
    for i in range(row.size):
        gap = max(f(0.5) * (row[i] - top) - t, f(0))
        total += gap * gap
        slope += gap
    return total, slope


@jit
def _gaps(row, top, t, goal):  # type: ignore[no-untyped-def]
    for i in range(row.size):
        goal[i] = max((row[i] - top) - t, np.float32(0))


@jit
def _squares(row, top, t, goal):  # type: ignore[no-untyped-def]
    f = np.float32
    for i in range(row.size):
        gap = max(f(0.5) * (row[i] - top) - t, f(0))
        goal[i] = gap * gap


@Kernel
def _backward(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    p, grad, out = plane(frame, 0, f), plane(frame, 1, f), plane(frame, 2, f)
    square = numbers(frame, 3)[0] < 1.75
    first, last = share(frame, p.shape[0])
    for r in range(first, last):
        if square:
            _slope_of_squares(p[r], grad[r], out[r])
        else:
            _slope_of_gaps(p[r], grad[r], out[r])


@jit
def _slope_of_gaps(p, grad, goal):  # type: ignore[no-untyped-def]
    f = np.float32
    total, count = f(0), f(0)
    for i in range(p.size):
        inside = p[i] > 0
        total += grad[i] if inside else f(0)
        count += f(1) if inside else f(0)
    mean = total / max(count, f(1))
    for i in range(p.size):
        goal[i] = grad[i] - mean if p[i] > 0 else f(0)


@jit
def _slope_of_squares(p, grad, goal):  # type: ignore[no-untyped-def]
    f = np.float32
    total, weight = f(0), f(0)
    for i in range(p.size):
        s = np.sqrt(p[i])
        total += s * grad[i]
        weight += s
    mean = total / weight if weight > 0 else f(0)
    for i in range(p.size):
        goal[i] = np.sqrt(p[i]) * (grad[i] - mean)
