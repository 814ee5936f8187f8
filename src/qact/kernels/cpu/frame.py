"""Arguments of a kernel as one array of integers: addresses and shapes.

The threads that torch already keeps call a kernel with a single pointer. So every tensor that a
kernel reads or writes is described in a `frame`, four integers each, and options follow as bits.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from numba import types
from numba.core import cgutils
from torch import Tensor

from qact.kernels.cpu.memory import begin, described, emitted

# Integers in a frame; the first two are for `qact.kernels.cpu.pool`, and with the last one a kernel
# may answer, by another number than zero.
SIZE, FIRST, ANSWER = 128, 2, 127


def pack(tensors: list[Tensor], numbers: list[float]) -> array[int]:
    """The frame of tensors (at most three dimensions, contiguous) and of numbers.

    It holds addresses: the tensors must outlive the call.
    """
    return filled(form([tensor.shape for tensor in tensors], numbers), tensors, ())


def form(shapes: Sequence[tuple[int, ...]], numbers: list[float]) -> array[int]:
    """A frame of tensors that are still to come, see :func:`filled`."""
    frame = [0] * FIRST
    for shape in shapes:
        frame += (0, *shape, 1, 1, 1)[:4]
    frame += array("q", array("d", numbers).tobytes())
    return array("q", frame + [0] * (SIZE - len(frame)))


def filled(form: array[int], tensors: list[Tensor], numbers: Sequence[float]) -> array[int]:
    """The frame of contiguous tensors of a form's shapes, and of its last ``numbers``."""
    if not all(map(Tensor.is_contiguous, tensors)):
        strides = [tensor.stride() for tensor in tensors]
        raise AssertionError(f"a kernel reads contiguous memory, not strides {strides}")
    frame = form[:]
    frame[FIRST : FIRST + 4 * len(tensors) : 4] = array("q", map(Tensor.data_ptr, tensors))
    frame[ANSWER - len(numbers) : ANSWER] = array("q", array("d", numbers).tobytes())
    return frame


@emitted
def opened(typing: Any, data: Any) -> Any:
    """The frame at an address."""
    kind = types.Array(types.int64, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return described(context, builder, kind, arguments[0], [cgutils.intp_t(SIZE)])

    return kind(data), generate


def _tensor(dims: int) -> Any:
    """A function of a frame, ``k`` and a dtype: the ``k``-th tensor, of so many dimensions.

    If it has more, the last ones are seen as one.
    """

    @emitted
    def tensor(typing: Any, frame: Any, k: Any, dtype: Any) -> Any:
        kind = types.Array(dtype.dtype, dims, "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            start, word = begin(context, builder, frame, arguments[0]), cgutils.intp_t
            at = builder.add(builder.mul(arguments[1], word(4)), word(FIRST))
            found = [builder.load(builder.gep(start, [builder.add(at, word(i))])) for i in range(4)]
            while len(found) > 1 + dims:
                last = found.pop()
                found[-1] = builder.mul(found[-1], last)
            return described(context, builder, kind, found[0], found[1:])

        return kind(frame, types.int64, dtype), generate

    return tensor


cube, plane, line = _tensor(3), _tensor(2), _tensor(1)


@emitted
def numbers(typing: Any, frame: Any, tensors: Any) -> Any:
    """The numbers behind ``tensors`` tensors."""
    kind = types.Array(types.float64, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, word = begin(context, builder, frame, arguments[0]), cgutils.intp_t
        at = builder.add(builder.mul(arguments[1], word(4)), word(FIRST))
        size = builder.sub(word(SIZE), at)
        return described(context, builder, kind, builder.gep(start, [at]), [size])

    return kind(frame, types.int64), generate
