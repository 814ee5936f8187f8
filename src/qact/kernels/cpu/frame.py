"""Arguments of a kernel as one array of integers: addresses and shapes.

The threads that torch already keeps call a kernel with a single pointer. So every tensor that a
kernel reads or writes is described in a `frame`, four integers each, and options follow as bits.
"""

from __future__ import annotations

import struct
from array import array
from typing import Any

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from qact.kernels.cpu.jit import jit

# Integers in a frame; the first two are for `qact.kernels.cpu.pool`, and with the last one a kernel
# may answer, by another number than zero.
SIZE, FIRST, ANSWER = 128, 2, 127


def pack(tensors: list[Tensor], numbers: list[float]) -> array[int]:
    """The frame of tensors (at most three dimensions, contiguous) and of numbers.

    It holds addresses: the tensors must outlive the call.
    """
    frame = [0] * FIRST
    for tensor in tensors:
        frame += _described(tensor)
    frame += struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers))
    return array("q", frame + [0] * (SIZE - len(frame)))


def put(frame: array[int], k: int, tensor: Tensor) -> None:
    """Write where the ``k``-th tensor is, and its shape."""
    at = FIRST + 4 * k
    frame[at : at + 4] = array("q", _described(tensor))


def _described(tensor: Tensor) -> tuple[int, ...]:
    if not tensor.is_contiguous():
        raise AssertionError(f"a kernel reads contiguous memory, not strides {tensor.stride()}")
    return (tensor.data_ptr(), *tensor.shape, 1, 1, 1)[:4]


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """An integer as an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@jit
def opened(data):  # type: ignore[no-untyped-def]
    """The frame at an address."""
    return carray(data, (SIZE,), np.int64)


@jit
def cube(frame, k, dtype=np.float32):  # type: ignore[no-untyped-def]
    """The ``k``-th tensor, of three dimensions."""
    at = FIRST + 4 * k
    return carray(_pointer(frame[at]), (frame[at + 1], frame[at + 2], frame[at + 3]), dtype)


@jit
def wide(frame, k, dtype):  # type: ignore[no-untyped-def]
    """The ``k``-th tensor, of three dimensions, with the last two as one."""
    at = FIRST + 4 * k
    return carray(_pointer(frame[at]), (frame[at + 1], frame[at + 2] * frame[at + 3]), dtype)


@jit
def plane(frame, k, dtype):  # type: ignore[no-untyped-def]
    """The ``k``-th tensor, of two dimensions."""
    at = FIRST + 4 * k
    return carray(_pointer(frame[at]), (frame[at + 1], frame[at + 2]), dtype)


@jit
def line(frame, k, dtype):  # type: ignore[no-untyped-def]
    """The ``k``-th tensor, of one dimension."""
    at = FIRST + 4 * k
    return carray(_pointer(frame[at]), (frame[at + 1],), dtype)


@jit
def numbers(frame, tensors):  # type: ignore[no-untyped-def]
    """The numbers behind ``tensors`` tensors."""
    return frame[FIRST + 4 * tensors :].view(np.float64)
