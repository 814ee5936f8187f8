"""Values added up by bins in products of one-hot matrices, which is what tensor cores are for.

Bin ``k`` is row ``k // COLUMNS`` and column ``k % COLUMNS`` of a matrix. Of a tile's values, one
matrix says which row each falls into (ROWS of bins x values), another which column (values x
COLUMNS), with any weight in the place of its ones; their product adds the weights up by bin.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Together 512 bins, the least that are counted at once.
ROWS, COLUMNS = tl.constexpr(32), tl.constexpr(16)


@triton.jit
def blank(K: tl.constexpr):
    """Bins of all channels of a program, empty, (ROWS, COLUMNS) or (K, ROWS, COLUMNS) float32."""
    return tl.zeros([ROWS, COLUMNS] if K == 1 else [K, ROWS, COLUMNS], tl.float32)


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
def _weighted(column, weight, K: tl.constexpr):
    """The matrix of columns with weights in the place of ones; float16 must hold them."""
    if K == 1:
        weight = tl.reshape(weight, [weight.shape[0] * weight.shape[1]])[:, None]
    else:
        weight = tl.trans(weight)[:, :, None]
    return tl.where(column, weight, 0.0).to(tl.float16)


@triton.jit
def count(number, places, cell, part, mask, K: tl.constexpr):
    """How many values each bin has, and the sum of their integers ``part``, up to 2^8."""
    which, column = one_hot(cell, mask, K)
    number = tl.dot(which, column.to(tl.float16), number)
    return number, tl.dot(which, _weighted(column, part, K), places)


@triton.jit
def added(which, column, weight, K: tl.constexpr):
    """Weights below 2 in size, added up by bin: their leading half, and the rest times 2^11."""
    high = weight.to(tl.float16).to(tl.float32)
    rest = tl.dot(which, _weighted(column, (weight - high) * 2048.0, K)) * (1 / 2048.0)
    return tl.dot(which, _weighted(column, high, K), rest)
