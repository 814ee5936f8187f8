"""The normal distribution on a channel's table: its quantile, and the kernel's convolution."""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.constants import KERNEL, TAPS

# Entries of a table that are worked on at once: few channels have more than twice as many.
CHUNK = tl.constexpr(256)


@triton.jit
def below(x):
    """``Phi(x)``."""
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit
def score(p):
    """``Phi^-1(p)`` for ``p`` in [1e-10, 1/2], to 1e-7: Wichura 1988, algorithm AS 241, PPND7."""
    q = p - 0.5
    r = 0.180625 - q * q
    high = ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
    low = ((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0
    s = tl.sqrt(-tl.log(p)) - 1.6
    far = ((0.17023821103 * s + 1.3067284816) * s + 2.7568153900) * s + 1.4234372777
    near = (0.12021132975 * s + 0.73700164250) * s + 1.0
    return tl.where(p >= 0.075, q * high / low, -far / near)


@triton.jit
def ratio_of(width, h):
    """The bin width in bandwidths of the kernel on the grid; see `qact.kernels.cpu.table.ratio`."""
    return (width / tl.sqrt(tl.maximum(h * h - width * width / 6, 0.25 * h * h))).to(tl.float32)


@triton.jit
def reach(ratio):
    """How many bins on either side the kernel covers, ``ratio`` the bin width in bandwidths."""
    return tl.maximum(tl.minimum(tl.ceil(1.0 / ratio * KERNEL).to(tl.int32), TAPS), 1)


@triton.jit
def convolve(edges, rises, first, many, bins, ratio):
    """``rises[k] = sum_j edges[j] (Phi((q - j) r) - Phi((q - 1 - j) r))``, ``q = first + k``.

    That is the rise across bin ``q - 1``, for ``k < many``. ``edges`` points to ``bins + 1``
    masses, and beyond them there are none. Readers of ``rises`` wait behind a barrier.
    """
    step = ratio * 0.7071067811865476
    for start in range(0, many, CHUNK):
        k = start + tl.arange(0, CHUNK)
        q, result, before = first + k, tl.zeros([CHUNK], tl.float32), ratio * 0.0
        for m in range(0, reach(ratio)):
            upto = tl.erf((m + 1) * step)
            left, right = q - 1 - m, q + m
            a = tl.load(edges + left, mask=(left >= 0) & (left <= bins), other=0.0)
            b = tl.load(edges + right, mask=(right >= 0) & (right <= bins), other=0.0)
            result += (upto - before) * (a + b)
            before = upto
        tl.store(rises + k, 0.5 * result, mask=k < many)
