"""Rows onto the simplex: alpha-entmax, forward and backward, without a sort.

A row is worked through while it is in the cache: a handful of passes find its threshold, see
:func:`qact.kernels.simplex.threshold`, one writes its weights, and nothing else is stored. Every
row has its own ``alpha``; 1.5 and 2 need no powers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qact.kernels.cpu.frame import line, opened, pack, plane
from qact.kernels.cpu.jit import Kernel, jit
from qact.kernels.cpu.memory import seen_as
from qact.kernels.cpu.pool import run, share
from qact.kernels.cpu.powers import TINY, log2, power
from qact.kernels.cpu.rows import fill

STEPS = 64
TOLERANCE = np.float32(4e-7)
LN2 = np.float32(math.log(2))


def forward(z: Tensor, alpha: Tensor) -> Tensor:
    """Weights of rows ``z`` (R, n), float32 and contiguous; ``alpha`` (R,), or (1,) of all."""
    out = torch.empty_like(z)
    run(_forward, pack([z, out, alpha], []), z.shape[0], z.numel())
    return out


def backward(p: Tensor, grad: Tensor, alpha: Tensor, learnt: bool) -> tuple[Tensor, Tensor]:
    """``dL/dz`` from the weights and ``dL/dp``, both (R, n); ``dL/dalpha`` (R,) if it is learnt."""
    out, slope = torch.empty_like(p), p.new_empty(p.shape[0] if learnt else 0)
    run(_backward, pack([p, grad, alpha, out, slope], []), p.shape[0], p.numel())
    return out, slope


@Kernel
def _forward(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    z, out, alpha = plane(frame, 0, f), plane(frame, 1, f), line(frame, 2, f)
    first, last = share(frame, z.shape[0])
    for r in range(first, last):
        row, goal, a = z[r], out[r], alpha[min(r, alpha.size - 1)]
        top = _top(row)
        if not _finite(row):
            fill(goal, np.nan)
        elif top == -np.inf:
            fill(goal, 0)
        elif a == f(1.5):
            _squares(row, top, _root(row, top, a), goal)
        elif a == f(2):
            _gaps(row, top, _root(row, top, a), goal)
        else:
            _powers(row, top, _root(row, top, a), goal, a)


@jit
def _top(row):  # type: ignore[no-untyped-def]
    top = np.float32(-np.inf)
    for i in range(row.size):
        top = max(top, row[i])
    return top


@jit
def _finite(row):  # type: ignore[no-untyped-def]
    """Whether no value is NaN or +inf: found on the bits, since arithmetic here assumes numbers."""
    bits, bad = seen_as(row, np.int32), np.int32(0)
    for i in range(bits.size):
        b = bits[i]
        beyond = (b & np.int32(0x7FFFFFFF)) > np.int32(0x7F800000)
        bad |= np.int32(beyond) | np.int32(b == np.int32(0x7F800000))
    return bad == 0


@jit
def _root(row, top, alpha):  # type: ignore[no-untyped-def]
    """The threshold of a row by Newton steps on the norm of the gaps, safeguarded by bisection."""
    f, rate = np.float32, alpha - np.float32(1)
    low, high = f(-1), -power(f(row.size), -rate)
    t, last = low, f(2)
    for _ in range(STEPS):
        if alpha == f(1.5):
            total, slope = _square_sums(row, top, t)
            norm = np.sqrt(total)
        elif alpha == f(2):
            total, slope = _gap_sums(row, top, t)
            norm = total
        else:
            total, slope = _power_sums(row, top, t, rate)
            norm = power(total, rate)
        step = (norm - 1) * total / (norm * slope)
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
def _power_sums(row, top, t, rate):  # type: ignore[no-untyped-def]
    f = np.float32
    total, slope, less = f(0), f(0), f(1) / rate - f(1)
    for i in range(row.size):
        gap = max(rate * (row[i] - top) - t, f(0))  # or 0 times infinity is added
        part = power(gap, less)
        total += part * gap
        slope += part
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


@jit
def _powers(row, top, t, goal, alpha):  # type: ignore[no-untyped-def]
    rate, total = alpha - np.float32(1), np.float32(0)
    for i in range(row.size):
        goal[i] = power(rate * (row[i] - top) - t, np.float32(1) / rate)
        total += goal[i]
    # A power of 100 makes a hundred of the threshold's last bit; most of it is common to all.
    for i in range(row.size):
        goal[i] /= total


@Kernel
def _backward(data):  # type: ignore[no-untyped-def]
    frame, f = opened(data), np.float32
    p, grad, alpha = plane(frame, 0, f), plane(frame, 1, f), line(frame, 2, f)
    out, slope = plane(frame, 3, f), line(frame, 4, f)
    first, last = share(frame, p.shape[0])
    for r in range(first, last):
        a = alpha[min(r, alpha.size - 1)]
        if a == f(1.5):
            mean = _slope_of_squares(p[r], grad[r], out[r])
        elif a == f(2):
            mean = _slope_of_gaps(p[r], grad[r], out[r])
        else:
            mean = _slope_of_powers(p[r], grad[r], out[r], a)
        if slope.size:
            slope[r] = _slope_of_alpha(p[r], grad[r], mean, f(1) / (a - f(1)))


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
    return mean


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
    return mean


@jit
def _slope_of_powers(p, grad, goal, alpha):  # type: ignore[no-untyped-def]
    f = np.float32
    total, weight = f(0), f(0)
    for i in range(p.size):
        s = power(p[i], f(2) - alpha)
        total += s * grad[i]
        weight += s
        goal[i] = s
    mean = total / weight if weight > 0 else f(0)
    for i in range(p.size):
        goal[i] *= grad[i] - mean
    return mean


@jit
def _slope_of_alpha(p, grad, mean, r):  # type: ignore[no-untyped-def]
    """``sum_i (g_i - mean) r p_i (r - ln p_i)``."""
    total = np.float32(0)
    for i in range(p.size):
        log = LN2 * log2(max(p[i], TINY))
        total += (grad[i] - mean) * r * p[i] * (r - log)
    return total
