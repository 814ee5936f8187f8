"""Which values a program works on, and a channel's numbers beside them.

A tensor (N, C, L) is cut in one of two ways. Planes (``K == 1``): a program has one channel, its
numbers are scalars, and a tile is ROWS pieces of V neighbours, V a divisor of L. Features
(``K > 1``, ``L == 1``): a program has K channels, their numbers are (K,), a tile is ROWS samples.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def channel(C, K: tl.constexpr):
    """The channels of this program, and which of them exist; the others repeat the last."""
    c = tl.program_id(0)
    if K > 1:
        c = c * K + tl.arange(0, K)
    return tl.minimum(c, C - 1), c < C


@triton.jit
def extent(per, n, ROWS: tl.constexpr, V: tl.constexpr):
    """Number of this program among those of its channels, and its tiles ``first ... last``."""
    s = tl.program_id(1)
    return s, s * per, tl.minimum((s + 1) * per, tl.cdiv(n, ROWS * V))


@triton.jit
def tile(t, c, exists, C, L, n, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr):
    """Of the ``t``-th tile: offsets in the tensor, indices in the channel, and mask."""
    row = t * ROWS + tl.arange(0, ROWS)
    if K == 1:
        i, column = row * V, tl.arange(0, V)
        # An argument of 1 is a constant of the compiler and has no `.to`.
        stride = tl.cast(C, tl.int64) * L
        base = (i // L).to(tl.int64) * stride + c.to(tl.int64) * L + i % L
        index, mask = i[:, None] + column[None, :], (i < n)[:, None] & (column < V)[None, :]
        offset = base[:, None] + column[None, :]
    else:
        offset = row.to(tl.int64)[:, None] * C + c[None, :]
        index, mask = row[:, None] + (c * 0)[None, :], (row < n)[:, None] & exists[None, :]
    return offset, index, mask


@triton.jit
def lanes(ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr):
    """A zero for every place of a tile, float32: sums over tiles, to be summed up at the end."""
    return tl.zeros([ROWS, V if K == 1 else K], tl.float32)


@triton.jit
def total(x, K: tl.constexpr):
    """The sum over a tile, per channel."""
    s = tl.sum(x, 0)
    if K == 1:
        s = tl.sum(s, 0)
    return s


@triton.jit
def largest(x, K: tl.constexpr):
    """The maximum over a tile, per channel."""
    s = tl.max(x, 0)
    if K == 1:
        s = tl.max(s, 0)
    return s


@triton.jit
def leading(x):
    """The largest power of two below a positive float32: the number without its mantissa."""
    return (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)


@triton.jit
def given(pointer, c, exists, default: tl.constexpr):
    """One of the affine tensors, or what stands for it."""
    if pointer is None:
        x = (c * 0).to(tl.float32) + default
    else:
        x = tl.load(pointer + c, mask=exists, other=default).to(tl.float32)
    return x


@triton.jit
def wide(c):
    """A zero per channel, float64: where sums begin."""
    return (c * 0).to(tl.float64)


@triton.jit
def single(x):
    """A channel's number beside its values, in float32."""
    return x.to(tl.float32)


@triton.jit
def beside(at):
    """Two float32 that stand beside each other, the first at a multiple of 8 bytes: one read."""
    both = tl.load(at.to(tl.pointer_type(tl.int64)))
    low, high = (both & 0xFFFFFFFF).to(tl.int32), (both >> 32).to(tl.int32)
    return low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True)
