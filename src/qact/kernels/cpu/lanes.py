"""Sixteen float32 side by side: loops written in vectors where LLVM would not find them by itself.

Numba knows no vectors. These are types that it hands to LLVM as such, and functions of them, each a
few instructions. Call them from functions that are compiled `exact`: the options of others would
change what they do with numbers that are none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_process_triple
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import lower_builtin, models, register_model

from qact.kernels.cpu.memory import begin, emitted

LANES = 16
_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
_AVX512 = "+avx512f" in _FEATURES
# Whether a register of 16 numbers can be indexed by another: what `permuted` needs.
PERMUTES = _AVX512 or "+avx2" in _FEATURES
_FUSES = WIDE = "+fma" in _FEATURES or "+neon" in _FEATURES
# Whether the processor converts half precision; a library would do it number by number.
CONVERTS = "+f16c" in _FEATURES or "+neon" in _FEATURES
# Kinds of processor, by what each has beyond the one before: kernels are lowered for all of them
# where a wheel is built. And the kind of this one, if it is of any.
_X86 = {"avx2": "+avx2,+fma,+f16c", "avx512": "+avx2,+fma,+f16c,+avx512f"}
KINDS = _X86 if get_process_triple().startswith("x86_64") else {"neon": "+neon"}
KIND = next((k for k in reversed(KINDS) if {*KINDS[k].split(",")} <= {*_FEATURES}), None)


def vector(element: Any, lanes: int = LANES) -> Any:
    """LLVM's type of so many numbers side by side."""
    return ir.VectorType(element, lanes)


_INT = ir.IntType(32)
_FLOATS, _INTS, _MASK = vector(ir.FloatType()), vector(_INT), vector(ir.IntType(1))
# How numbers lie in memory, by the type of the array that they are seen as: Numba has neither half.
_STORED = {types.float32: _FLOATS, types.uint16: vector(ir.IntType(16))}
_STORED[types.int16] = vector(ir.HalfType())


class _Lanes(types.Type):
    def __init__(self, name: str, llvm: Any) -> None:
        self.llvm = llvm
        super().__init__(name=f"lanes({name})")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Lanes) -> None:
        super().__init__(manager, kind, kind.llvm)


FLOATS, INTS, MASK = _Lanes("float", _FLOATS), _Lanes("int", _INTS), _Lanes("mask", _MASK)


def _operation(result: types.Type, kinds: tuple[types.Type, ...], emit: Callable[..., Any]) -> Any:
    """A function of vectors: ``emit(builder, ...)`` writes it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, *arguments)

    made = result(*kinds), generate
    typings: dict[int, Callable[..., Any]] = {
        1: lambda typing, a: made,
        2: lambda typing, a, b: made,
        3: lambda typing, a, b, c: made,
    }
    return emitted(typings[len(kinds)])


def _called(name: str, *vectors: Any) -> Callable[..., Any]:
    """Emits a call of LLVM's own function of that name."""

    def emit(builder: Any, *arguments: Any) -> Any:
        kind = ir.FunctionType(arguments[0].type, [a.type for a in arguments])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    return emit


def _repeated(value: int, kind: Any = _INTS) -> Any:
    return ir.Constant(kind, [kind.element(value)] * kind.count)


def part(builder: Any, whole: Any, first: int, count: int) -> Any:
    """So many lanes of a vector, from ``first`` on."""
    order = ir.Constant(vector(_INT, count), [_INT(first + k) for k in range(count)])
    return builder.shuffle_vector(whole, whole, order)


def _splat(builder: Any, value: Any) -> Any:
    blank = ir.Constant(vector(value.type), ir.Undefined)
    one = builder.insert_element(blank, value, _INT(0))
    return builder.shuffle_vector(one, blank, _repeated(0))


def _permuted(builder: Any, table: Any, index: Any) -> Any:
    if _AVX512:
        return _called("llvm.x86.avx512.permvar.sf.512")(builder, table, index)
    half, permute = LANES // 2, _called("llvm.x86.avx2.permps")
    low, high = (part(builder, table, k, half) for k in (0, half))
    found = []
    for k in (0, half):
        at = part(builder, index, k, half)
        eighth = builder.shl(at, _repeated(28, at.type))  # the bit that says which half
        upper = builder.icmp_signed("<", eighth, _repeated(0, at.type))
        found.append(builder.select(upper, permute(builder, high, at), permute(builder, low, at)))
    return builder.shuffle_vector(*found, ir.Constant(_INTS, [_INT(k) for k in range(LANES)]))


splat = _operation(FLOATS, (types.float32,), _splat)
plus = _operation(FLOATS, (FLOATS, FLOATS), lambda b, x, y: b.fadd(x, y))
minus = _operation(FLOATS, (FLOATS, FLOATS), lambda b, x, y: b.fsub(x, y))
times = _operation(FLOATS, (FLOATS, FLOATS), lambda b, x, y: b.fmul(x, y))
# x y + z, rounded once where the processor can: a library would do it number by number.
fused = _operation(FLOATS, (FLOATS,) * 3, _called(f"llvm.{'fma' if _FUSES else 'fmuladd'}.v16f32"))
floor = _operation(FLOATS, (FLOATS,), _called("llvm.floor.v16f32"))
nearest = _operation(FLOATS, (FLOATS,), _called("llvm.rint.v16f32"))
whole = _operation(INTS, (FLOATS,), lambda b, x: b.fptosi(x, _INTS))
bits = _operation(INTS, (FLOATS,), lambda b, x: b.bitcast(x, _INTS))
below = _operation(MASK, (FLOATS, FLOATS), lambda b, x, y: b.fcmp_ordered("<", x, y))
least = _operation(MASK, (FLOATS, FLOATS), lambda b, x, y: b.fcmp_ordered("<=", x, y))
numbered = _operation(  # which lanes, as the bits of a number; the lowest of those
    types.int32, (MASK,), lambda b, m: b.zext(b.bitcast(m, ir.IntType(LANES)), _INT)
)
lowest = _operation(
    types.int32, (types.int32,), lambda b, n: b.cttz(n, ir.Constant(ir.IntType(1), 0))
)
lane = _operation(types.int32, (INTS, types.int32), lambda b, x, k: b.extract_element(x, k))
put = _operation(  # the same vector but for one lane
    FLOATS, (FLOATS, types.int32, types.float32), lambda b, x, k, y: b.insert_element(x, y, k)
)
either = _operation(MASK, (MASK, MASK), lambda b, x, y: b.or_(x, y))
both = _operation(MASK, (MASK, MASK), lambda b, x, y: b.and_(x, y))
both = _operation(MASK, (MASK, MASK), lambda b, x, y: b.and_(x, y))
unknown = _operation(MASK, (FLOATS,), lambda b, x: b.fcmp_unordered("uno", x, x))
chosen = _operation(FLOATS, (MASK, FLOATS, FLOATS), lambda b, m, x, y: b.select(m, x, y))
# The table's number at an index, of which the lowest four bits count.
permuted = _operation(FLOATS, (FLOATS, INTS), _permuted)


@emitted
def some(typing: Any, mask: Any) -> Any:
    """Whether a lane is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        packed = builder.bitcast(arguments[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", packed, ir.IntType(LANES)(0))

    return types.boolean(MASK), generate


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any, what: Any) -> Any:
    """Where ``array[index]`` is, as ``what`` stands there."""
    start = begin(context, builder, kind, array)
    return builder.bitcast(builder.gep(start, [index]), what.as_pointer())


@emitted
def load(typing: Any, array: Any, index: Any) -> Any:
    """The numbers from ``array[index]`` on; uint16 is bfloat16, int16 is float16."""
    stored = _STORED[array.dtype]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, offset = arguments
        at = address(context, builder, signature.args[0], start, offset, stored)
        found = builder.load(at, align=array.dtype.bitwidth // 8)
        if array.dtype == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(found, _INTS), _repeated(16)), _FLOATS)
        return found if stored == _FLOATS else builder.fpext(found, _FLOATS)

    return FLOATS(array, types.intp), generate


@emitted
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write them, rounded to the nearest and ties to even."""
    stored = _STORED[array.dtype]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        if stored == _STORED[types.uint16]:
            value = _narrowed(builder, value)
        elif stored != _FLOATS:
            value = builder.fptrunc(value, stored)
        at = address(context, builder, signature.args[0], array, index, stored)
        builder.store(value, at, align=signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, FLOATS), generate


@emitted
def stream(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a whole cache line of float32 past the caches; `fence` ends it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        at = address(context, builder, signature.args[0], array, index, _FLOATS)
        put = builder.store(value, at, align=4 * LANES)
        put.set_metadata("nontemporal", builder.module.add_metadata([_INT(1)]))
        return context.get_dummy_value()

    return types.void(array, types.intp, FLOATS), generate


@emitted
def fence(typing: Any) -> Any:
    """What was written before is there for whoever reads after."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _narrowed(builder: Any, value: Any) -> Any:
    """The upper halves of float32, rounded; what is not a number stays so."""
    whole = builder.bitcast(value, _INTS)
    odd = builder.and_(builder.lshr(whole, _repeated(16)), _repeated(1))
    rounded = builder.add(whole, builder.add(odd, _repeated(0x7FFF)))
    unknown = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(unknown, _repeated(0x7FC00000), rounded)
    return builder.trunc(builder.lshr(rounded, _repeated(16)), _STORED[types.uint16])


@emitted
def fetch(typing: Any, array: Any, index: Any, written: Any) -> Any:
    """Have the cache line of ``array[index]`` brought near, to be read or to be ``written``.

    Rows of memory that lie far apart are no pattern that a processor would foresee. It may lie
    beyond the array: nothing is read.
    """
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _INT, _INT, _INT])

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, _ = arguments
        place = address(context, builder, signature.args[0], array, index, ir.IntType(8))
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        write = _INT(int(signature.args[2].literal_value))
        builder.call(ask, [place, write, _INT(3), _INT(1)])
        return context.get_dummy_value()

    if not isinstance(written, types.Literal):
        return None
    return types.void(array, types.intp, written), generate


@emitted
def gathered(typing: Any, array: Any, index: Any) -> Any:
    """``array[index]`` for sixteen indices."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        found = ir.Constant(_FLOATS, ir.Undefined)
        for k in range(LANES):
            at = builder.sext(builder.extract_element(arguments[1], _INT(k)), ir.IntType(64))
            found = builder.insert_element(found, builder.load(builder.gep(start, [at])), _INT(k))
        return found

    return FLOATS(array, INTS), generate


@emitted
def transpose(typing: Any, tile: Any) -> Any:
    """Exchange rows and columns of 16 x 16 float32, in place, in registers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, index = signature.args[0], ir.IntType(64)
        places = [
            address(context, builder, kind, arguments[0], index(LANES * k), _FLOATS)
            for k in range(LANES)
        ]
        rows = [builder.load(place, align=4) for place in places]
        width = LANES // 2
        while width:  # blocks of this width change places across the diagonal
            swapped = list(rows)
            for k in (k for k in range(LANES) if not k & width):
                pair = rows[k], rows[k + width]
                for side in (0, 1):
                    lanes = [
                        (i & ~width) + side * width + (LANES if i & width else 0)
                        for i in range(LANES)
                    ]
                    order = ir.Constant(_INTS, [_INT(lane) for lane in lanes])
                    swapped[k + side * width] = builder.shuffle_vector(*pair, order)
            rows, width = swapped, width // 2
        for row, place in zip(rows, places, strict=True):
            builder.store(row, place, align=4)
        return context.get_dummy_value()

    return types.void(tile), generate


def _written(symbol: Any, kind: types.Type, emit: Callable[..., Any]) -> None:
    """Let Numba read ``symbol`` between two vectors of a kind."""
    template = {"key": symbol, "cases": [kind(kind, kind)]}
    infer_global(symbol)(type("Written", (ConcreteTemplate,), template))
    lower_builtin(symbol, kind, kind)(lambda context, builder, signature, two: emit(builder, *two))


# Formulas as they are written; a product may be rounded together with the sum it goes into.
_CONTRACT = {"flags": ("contract",)}
for _symbol in (operator.add, operator.iadd):
    _written(_symbol, FLOATS, lambda b, x, y: b.fadd(x, y, **_CONTRACT))
_written(operator.sub, FLOATS, lambda b, x, y: b.fsub(x, y, **_CONTRACT))
_written(operator.mul, FLOATS, lambda b, x, y: b.fmul(x, y, **_CONTRACT))
_written(operator.truediv, FLOATS, lambda b, x, y: b.fdiv(x, y))
_written(operator.add, INTS, lambda b, x, y: b.add(x, y))
_written(operator.sub, INTS, lambda b, x, y: b.sub(x, y))
_written(operator.and_, INTS, lambda b, x, y: b.and_(x, y))
_written(operator.rshift, INTS, lambda b, x, y: b.ashr(x, y))


@emitted
def every(typing: Any, value: Any) -> Any:
    """A number in every lane, of whatever kind it is."""
    kind = types.unliteral(value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, context.cast(builder, arguments[0], kind, types.float32))

    return FLOATS(kind), generate


repeat = _operation(INTS, (types.int32,), _splat)
number = _operation(FLOATS, (INTS,), lambda b, x: b.sitofp(x, _FLOATS))
pattern = _operation(FLOATS, (INTS,), lambda b, x: b.bitcast(x, _FLOATS))  # undoes `bits`
smaller = _operation(
    FLOATS, (FLOATS, FLOATS), lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y)
)
larger = _operation(
    FLOATS, (FLOATS, FLOATS), lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y)
)
_NUMBERED = ir.Constant(_INTS, [_INT(k) for k in range(LANES)])
# Where row ``k`` of sixteen numbers has those of each lane.
place_of = _operation(INTS, (INTS,), lambda b, k: b.add(b.shl(k, _repeated(4)), _NUMBERED))
