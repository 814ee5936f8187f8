"""A stored context: one launch that reads a value, finds it in its channel's table, and writes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qact.kernels.stored import Stored
from qact.kernels.triton.constants import PARTS
from qact.kernels.triton.launch import cut, launch
from qact.kernels.triton.tiles import channel, tile


def lookup(z: Tensor, stored: Stored) -> Tensor:
    """The activation of ``z`` (N, C, L), of any floating dtype, in a stored context; like ``z``."""
    z = z.contiguous()
    out, how = torch.empty_like(z), cut(z, alone=False)
    launch(
        recall, how.grid, z, out, *stored.tensors, stored.table.shape[1] - 2, *how.sizes, how.per,
        STEPS=stored.place.shape[1] > 0, **how.shape,
    )  # fmt: skip
    return out


@triton.jit
def recall(
    z, out, table, place, inverse, offset, scale, shift, least, bins, C, L, n, per,
    STEPS: tl.constexpr, ROWS: tl.constexpr, V: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """`qact.kernels.stored.lookup`."""
    c, exists = channel(C, K)
    first = tl.program_id(1) * per
    # The inverse width is a power of two, so it commutes with rounding.
    unit = tl.load(inverse + c)
    slope, start = tl.load(scale + c) * unit, tl.load(shift + c) * unit
    begin, low = tl.load(offset + c).to(tl.float32), tl.load(least + c)
    row, jump = table + c.to(tl.int64) * (bins + 2), place + c.to(tl.int64) * (bins + 1)
    for t in range(first, tl.minimum(first + per, tl.cdiv(n, ROWS * V))):
        at, _, mask = tile(t, c, exists, C, L, n, ROWS, V, K)
        y = tl.load(z + at, mask=mask, other=0.0).to(tl.float32) * slope + start
        cell = tl.minimum(tl.maximum(tl.floor(y) - begin, 0.0), bins - 1.0)
        part = tl.minimum(tl.maximum(y - (cell + begin), 0.0), 1.0)
        cell = cell.to(tl.int32)
        if STEPS:
            # Adding 1.5 2^23 rounds to the nearest integer, and ties to even as PyTorch does.
            rounded = (part * PARTS + 12582912.0) - 12582912.0
            reached = (rounded >= tl.load(jump + cell)) | (part >= 1)
            value = tl.load(row + cell + reached.to(tl.int32))
        else:
            left, right = tl.load(row + cell), tl.load(row + cell + 1)
            value = tl.maximum(left + part * (right - left), low)
        value = tl.where(y == y, value, y)  # what is not a number stays so
        tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)
