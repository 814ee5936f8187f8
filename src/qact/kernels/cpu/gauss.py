"""The Gaussian kernel on a grid: its taps, its convolution, and the normal score."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from qact.kernels.columns import KERNEL, TAPS
from qact.kernels.cpu.jit import jit
from qact.kernels.cpu.memory import seen_as
from qact.kernels.cpu.rows import fill

STEP = 1024

# Phi on a grid of 1/1024: linear interpolation errs by 3e-8. Both are the standard library's, since
# kernels are lowered where torch need not be.
_ROOT = math.sqrt(0.5)
PHI = np.array([0.5 + 0.5 * math.erf(_ROOT * k / STEP) for k in range(5 * STEP)])

# Phi^-1 at 64 places in every octave of p, from 2^-33 to 1/2: linear interpolation errs by 2e-5.
LOWEST = (127 - 33) << 6
_places = (np.arange(LOWEST, (126 << 6) + 2, dtype=np.int32) << 17).view(np.float32)
SCORE = np.array([NormalDist().inv_cdf(p) for p in _places.tolist()], dtype=np.float32)


@jit
def taps(ratio, kernel):  # type: ignore[no-untyped-def]
    """What a unit mass at an edge puts into the cells on its right; returns how many there are.

    ``kernel[m] = Phi((m + 1) r) - Phi(m r)``, ``r`` the bin width in bandwidths.
    """
    reach = max(min(int(math.ceil(KERNEL / ratio)), TAPS), 1)
    before = 0.5
    for m in range(reach):
        x = (m + 1) * ratio * STEP
        k = int(min(x, 4.9 * STEP))
        value = PHI[k] + (min(x, 4.9 * STEP) - k) * (PHI[k + 1] - PHI[k])
        kernel[m] = value - before
        before = value
    kernel[reach] = 0
    return reach


@jit
def convolve(edges, bins, kernel, reach, out):  # type: ignore[no-untyped-def]
    """``out[k + 1] = sum_j edges[j] (Phi((k + 1 - j) r) - Phi((k - j) r))`` for k = -1 ... bins.

    ``edges`` carries `TAPS` + 2 zeros on either side of its ``bins + 1`` masses.
    """
    total = out[: bins + 2]
    fill(total, 0)
    n = total.size
    for m in range(0, reach, 2):
        near, far = kernel[m], kernel[m + 1]
        left, right = TAPS + 1 - m, TAPS + 2 + m
        a, b = edges[left : left + n], edges[right : right + n]
        c, d = edges[left - 1 : left - 1 + n], edges[right + 1 : right + 1 + n]
        for k in range(n):
            total[k] += near * (a[k] + b[k]) + far * (c[k] + d[k])


@jit
def normal_score(p, score):  # type: ignore[no-untyped-def]
    """``Phi^-1(p)`` for ``p`` in [2^-33, 1/2], float32."""
    bits = seen_as(p, np.int32)
    for k in range(score.size):
        b = bits[k]
        i = (b >> 17) - LOWEST
        part = np.float32(b & 0x1FFFF) * np.float32(2.0**-17)
        score[k] = SCORE[i] + part * (SCORE[i + 1] - SCORE[i])
