"""Memory as arrays, and numbers as the bits they are, in instructions of our own.

NumPy's functions of these would do. But Numba compiles each of them for every kind of argument by
itself, as if it were to be called from Python: a seventh of a cold start.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import _empty_nd_impl, make_array, populate_array

emitted: Any = intrinsic


def begin(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Where the numbers of an array are."""
    return make_array(kind)(context, builder, array).data


def described(context: Any, builder: Any, kind: Any, address: Any, shape: list[Any]) -> Any:
    """The array of a kind, row by row, at an address."""
    made, size = make_array(kind)(context, builder), kind.dtype.bitwidth // 8
    strides = [cgutils.intp_t(size)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    pointer = context.get_data_type(kind.dtype).as_pointer()
    there = builder.bitcast if isinstance(address.type, type(pointer)) else builder.inttoptr
    populate_array(made, there(address, pointer), shape, strides, size, None)
    return made._getvalue()


@emitted
def empty(typing: Any, shape: Any, dtype: Any) -> Any:
    """``np.empty(shape, dtype)``, of a length or a tuple of lengths."""
    dims = getattr(shape, "count", 1)
    kind = types.Array(dtype.dtype, dims, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sizes = cgutils.unpack_tuple(builder, arguments[0]) if dims > 1 else [arguments[0]]
        return _empty_nd_impl(context, builder, kind, sizes)._getvalue()

    return kind(types.UniTuple(types.intp, dims) if dims > 1 else types.intp, dtype), generate


@emitted
def seen_as(typing: Any, found: Any, dtype: Any) -> Any:
    """The same bits as numbers of another kind, as wide: of an array, or of one number."""
    if not isinstance(found, types.Array):

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(dtype.dtype))

        return dtype.dtype(found, dtype), generate

    kind = found.copy(dtype=dtype.dtype)

    def generate_array(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        old, new = make_array(found)(context, builder, arguments[0]), make_array(kind)
        made, pointer = new(context, builder), context.get_data_type(kind.dtype).as_pointer()
        data = builder.bitcast(old.data, pointer)
        rest = old.shape, old.strides, old.itemsize, old.meminfo, old.parent
        populate_array(made, data, *rest)
        return impl_ret_borrowed(context, builder, kind, made._getvalue())

    return kind(found, dtype), generate_array


@emitted
def lined(typing: Any, array: Any) -> Any:
    """Whether an array begins where a cache line does, as PyTorch's tensors do."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = builder.ptrtoint(begin(context, builder, array, arguments[0]), cgutils.intp_t)
        rest = builder.and_(at, cgutils.intp_t(63))
        return builder.icmp_unsigned("==", rest, cgutils.intp_t(0))

    return types.boolean(array), generate
