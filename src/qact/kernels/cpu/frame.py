"""Arguments of a kernel as one array of integers: addresses and shapes.

The threads that torch already keeps call a kernel with a single pointer. So every tensor that a
kernel reads or writes is described in a `frame`, four integers each, and options follow as bits.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from qact.kernels.cpu.jit import jit


def pack(tensors: list[Tensor], numbers: list[float]) -> np.ndarray:
    """The frame of tensors (at most three dimensions, contiguous) and of numbers.

    It holds addresses: the tensors must outlive the call.
    """
    frame: list[int] = []
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise AssertionError(f"a kernel reads contiguous memory, not strides {tensor.stride()}")
        shape = (*tensor.shape, 1, 1, 1)[:3]
        frame += (tensor.data_ptr(), *shape)
    frame += struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers))
    return np.array(frame, np.int64)


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """An integer as an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@jit
def cube(frame, k):  # type: ignore[no-untyped-def]
    """The ``k``-th tensor, float32 of three dimensions."""
    shape = (frame[4 * k + 1], frame[4 * k + 2], frame[4 * k + 3])
    return carray(_pointer(frame[4 * k]), shape, np.float32)


@jit
def plane(frame, k, dtype):  # type: ignore[no-untyped-def]
    """The ``k``-th tensor, of two dimensions."""
    return carray(_pointer(frame[4 * k]), (frame[4 * k + 1], frame[4 * k + 2]), dtype)


@jit
def line(frame, k, dtype):  # type: ignore[no-untyped-def]
    """The ``k``-th tensor, of one dimension."""
    return carray(_pointer(frame[4 * k]), (frame[4 * k + 1],), dtype)


@jit
def numbers(frame, tensors):  # type: ignore[no-untyped-def]
    """The numbers behind ``tensors`` tensors."""
    return frame[4 * tensors :].view(np.float64)


@jit
def share(channels, thread, threads):  # type: ignore[no-untyped-def]
    """The channels of one thread: whole cache lines of 16, where there are enough of them."""
    unit = 16 if channels >= 32 * threads else 1
    first = unit * ((channels * thread) // (threads * unit))
    last = unit * ((channels * (thread + 1)) // (threads * unit))
    return first, channels if thread + 1 == threads else last
