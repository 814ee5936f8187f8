"""Values counted into bins by products of one-hot matrices: no atomic, and always the same sums.

Bin ``k`` is row ``k // COLUMNS`` and column ``k % COLUMNS`` of a matrix. Of a tile's values, one
matrix says which row each falls into (ROWS of bins x values), another which column (values x
COLUMNS), with any weight in the place of its ones; their product adds the weights up by bin. It is
what tensor cores are for. Every program has bins of its own; who reads them adds them in one order.
"""

from __future__ import annotations

import triton
import triton.language as tl

# SPAN bins at a time, as many as a channel near a normal distribution has.
ROWS, COLUMNS = tl.constexpr(32), tl.constexpr(16)
SPAN = tl.constexpr(512)
# Float32 adds integers exactly below 2^24, and a place is up to 2^8: so many values between them.
EXACT = tl.constexpr(1 << 16)


@triton.jit
def one_hot(cell, mask, K: tl.constexpr):
    """Row (.., ROWS, V) and column (.., V, COLUMNS) of every value of a tile, channels in front."""
    # Shifted right, -1 stays -1, which is no row; so do bins before and behind the span.
    cell = tl.where(mask, cell, -1)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    if K == 1:
        cell = tl.reshape(cell, [cell.shape[0] * cell.shape[1]])
        row, column = (
            rows[:, None] == (cell >> 4)[None, :],
            (cell & 15)[:, None] == columns[None, :],
        )
    else:
        cell = tl.trans(cell)
        row = rows[None, :, None] == (cell >> 4)[:, None, :]
        column = (cell & 15)[:, :, None] == columns[None, None, :]
    return row.to(tl.float16), column


@triton.jit
def weighted(column, weight, K: tl.constexpr):
    """The matrix of columns with weights in the place of ones; float16 must hold them."""
    if K == 1:
        weight = tl.reshape(weight, [weight.shape[0] * weight.shape[1]])[:, None]
    else:
        weight = tl.trans(weight)[:, :, None]
    return tl.where(column, weight, 0.0).to(tl.float16)


@triton.jit
def blank(K: tl.constexpr):
    """Bins of all channels of a program, empty, (ROWS, COLUMNS) or (K, ROWS, COLUMNS) float32."""
    if K == 1:
        empty = tl.zeros([ROWS, COLUMNS], tl.float32)
    else:
        empty = tl.zeros([K, ROWS, COLUMNS], tl.float32)
    return empty


@triton.jit
def put(row, base, bins, exists, content, K: tl.constexpr):
    """Store bins ``base ... base + SPAN`` of channels that have so many; ``row`` points to 0."""
    k = base + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    if K == 1:
        at, inside = row + k, k <= bins
    else:
        at, inside = row[:, None, None] + k[None, :, :], k[None, :, :] <= bins[:, None, None]
        inside = inside & exists[:, None, None]
    tl.store(at, content, mask=inside)


@triton.jit
def join(parts, stride, S, k, mask):
    """Sum up what ``S`` programs have counted, ``stride`` apart, and leave it with the first."""
    if S > 1:
        content = tl.load(parts + k, mask=mask, other=0, cache_modifier=".cg")
        for s in range(1, S):
            at = parts + tl.cast(s, tl.int64) * stride + k
            content += tl.load(at, mask=mask, other=0, cache_modifier=".cg")
        tl.store(parts + k, content, mask=mask)
        tl.debug_barrier()
