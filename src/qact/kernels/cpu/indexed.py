"""Sixteen float32 in places of their own: read, and added to, by an index for each lane.

Indices lie in a vector, or stand in memory; numbers are read one by one, or several that lie side
by side at once. Vectors themselves are `qact.kernels.cpu.lanes`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from qact.kernels.cpu.lanes import FLOATS, INTS, LANES, address, part, vector
from qact.kernels.cpu.memory import begin, emitted

_INT, _INTS, _FLOATS = ir.IntType(32), INTS.llvm, FLOATS.llvm


def _zipped(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Pairs of numbers, the first eight and the rest."""
    order = [[k // 2 + LANES * (k % 2) for k in range(s, s + LANES)] for s in (0, LANES)]
    return tuple(
        builder.shuffle_vector(a, b, ir.Constant(_INTS, [_INT(k) for k in half])) for half in order
    )


def _unzipped(builder: Any, first: Any, rest: Any) -> tuple[Any, Any]:
    """The inverse of :func:`_zipped`."""
    order = [range(s, 2 * LANES, 2) for s in (0, 1)]
    return tuple(
        builder.shuffle_vector(first, rest, ir.Constant(_INTS, [_INT(k) for k in each]))
        for each in order
    )


_DOUBLE, _HALF = ir.DoubleType(), LANES // 2
TWO = types.UniTuple(FLOATS, 2)


@emitted
def load_pairs(typing: Any, array: Any, index: Any) -> Any:
    """Sixteen pairs from ``array[index]`` on, as two vectors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index = arguments
        rows = [
            builder.load(
                address(
                    context, builder, signature.args[0], array, builder.add(index, more), _FLOATS
                ),
                align=4,
            )
            for more in (ir.Constant(index.type, 0), ir.Constant(index.type, LANES))
        ]
        return context.make_tuple(builder, TWO, _unzipped(builder, *rows))

    return TWO(array, types.intp), generate


@emitted
def store_pairs(typing: Any, array: Any, index: Any, a: Any, b: Any) -> Any:
    """The inverse of :func:`load_pairs`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, a, b = arguments
        for k, row in enumerate(_zipped(builder, a, b)):
            at = builder.add(index, ir.Constant(index.type, k * LANES))
            place = address(context, builder, signature.args[0], array, at, _FLOATS)
            builder.store(row, place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, FLOATS, FLOATS), generate


def _places(context: Any, builder: Any, kind: Any, array: Any, index: Any, what: Any) -> list[Any]:
    """Where ``what`` numbers ``index`` are, one for each lane."""
    start = builder.bitcast(begin(context, builder, kind, array), what.as_pointer())
    found = []
    for k in range(LANES):
        at = builder.zext(builder.extract_element(index, _INT(k)), ir.IntType(64))
        found.append(builder.gep(start, [at]))
    return found


def _collected(builder: Any, places: list[Any], element: Any) -> Any:
    """What stands at some places, as one vector."""
    row = ir.Constant(vector(element, len(places)), ir.Undefined)
    for k, place in enumerate(places):
        row = builder.insert_element(row, builder.load(place, align=4), _INT(k))
    return row


def _put(builder: Any, row: Any, places: list[Any]) -> None:
    """The inverse of :func:`_collected`."""
    for k, place in enumerate(places):
        builder.store(builder.extract_element(row, _INT(k)), place, align=4)


@emitted
def gathered_pairs(typing: Any, array: Any, index: Any) -> Any:
    """The pairs number ``index``, one for each lane, as two vectors: each is loaded at once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index = arguments
        places = _places(context, builder, signature.args[0], array, index, _DOUBLE)
        rows = [_collected(builder, half, _DOUBLE) for half in (places[:_HALF], places[_HALF:])]
        rows = [builder.bitcast(row, _FLOATS) for row in rows]
        return context.make_tuple(builder, TWO, _unzipped(builder, *rows))

    return TWO(array, INTS), generate


# Sums into places of a lane each. All are read before one is written: a processor that once had to
# wait for what it had just written waits for each then.


@emitted
def add_pairs(typing: Any, array: Any, index: Any, a: Any, b: Any) -> Any:
    """Add to the pairs number ``index``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, a, b = arguments
        places = _places(context, builder, signature.args[0], array, index, _DOUBLE)
        halves = places[:_HALF], places[_HALF:]
        rows = [builder.bitcast(_collected(builder, half, _DOUBLE), _FLOATS) for half in halves]
        for half, row, more in zip(halves, rows, _zipped(builder, a, b), strict=True):
            total = builder.bitcast(builder.fadd(row, more), vector(_DOUBLE, _HALF))
            _put(builder, total, half)
        return context.get_dummy_value()

    return types.void(array, INTS, FLOATS, FLOATS), generate


@emitted
def add_ints(typing: Any, array: Any, index: Any, more: Any) -> Any:
    """Add integers to the bits of ``array[index]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, more = arguments
        places = _places(context, builder, signature.args[0], array, index, _INT)
        _put(builder, builder.add(_collected(builder, places, _INT), more), places)
        return context.get_dummy_value()

    return types.void(array, INTS, INTS), generate


# The same at indices that stand in memory: to take them out of a vector costs as much as to follow
# them. A pair begins at any number; of two sums into one place the second waits for the first.
FOUR = types.UniTuple(FLOATS, 4)


def _listed(
    context: Any, builder: Any, kinds: Any, arrays: Any, first: Any, what: Any, unit: Any
) -> list[Any]:
    """Where sixteen indices of the second array, from ``first`` on, lead to in the first one."""
    start, cells = (
        begin(context, builder, kind, array) for kind, array in zip(kinds, arrays, strict=True)
    )
    start, found = builder.bitcast(start, unit.as_pointer()), []
    for k in range(LANES):
        at = builder.load(builder.gep(cells, [builder.add(first, ir.Constant(first.type, k))]))
        place = builder.gep(start, [builder.zext(at, ir.IntType(64))])
        found.append(builder.bitcast(place, what.as_pointer()))
    return found


def _joined(builder: Any, rows: list[Any]) -> Any:
    """Vectors one behind the other, as many as a power of two."""
    while len(rows) > 1:
        order = ir.Constant(
            vector(_INT, 2 * rows[0].type.count), [_INT(k) for k in range(2 * rows[0].type.count)]
        )
        rows = [
            builder.shuffle_vector(*two, order) for two in zip(rows[::2], rows[1::2], strict=True)
        ]
    return rows[0]


@emitted
def listed_pairs(typing: Any, array: Any, cells: Any, first: Any) -> Any:
    """``array[k]`` and ``array[k + 1]`` for ``k = cells[first]`` and the fifteen after it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, (*arrays, first) = signature.args[:2], arguments
        places = _listed(context, builder, kinds, arrays, first, _DOUBLE, ir.FloatType())
        rows = [_collected(builder, half, _DOUBLE) for half in (places[:_HALF], places[_HALF:])]
        rows = [builder.bitcast(row, _FLOATS) for row in rows]
        return context.make_tuple(builder, TWO, _unzipped(builder, *rows))

    return TWO(array, cells, types.intp), generate


@emitted
def listed_fours(typing: Any, array: Any, cells: Any, first: Any) -> Any:
    """``array[k]`` to ``array[k + 3]``, likewise: sixteen rows of four become four of sixteen."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, (*arrays, first) = signature.args[:2], arguments
        four, one = vector(ir.FloatType(), 4), ir.FloatType()
        places = _listed(context, builder, kinds, arrays, first, four, one)
        rows = [builder.load(place, align=4) for place in places]
        # Every fourth together, so that four by four are exchanged where they lie.
        tiles = [_joined(builder, rows[k::4]) for k in range(4)]
        for near in (1, 2):
            swapped = list(tiles)
            for k in (k for k in range(4) if not k & near):
                for side in (0, 1):
                    lanes = [
                        (i & ~near) + side * near + (LANES if i & near else 0) for i in range(LANES)
                    ]
                    order = ir.Constant(_INTS, [_INT(lane) for lane in lanes])
                    two = tiles[k], tiles[k + near]
                    swapped[k + side * near] = builder.shuffle_vector(*two, order)
            tiles = swapped
        return context.make_tuple(builder, FOUR, tiles)

    return FOUR(array, cells, types.intp), generate


@emitted
def add_listed(typing: Any, array: Any, cells: Any, first: Any, a: Any, b: Any) -> Any:
    """Add to the pairs number ``k`` of float64, likewise."""
    two = vector(_DOUBLE, 2)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds, (*arrays, first, a, b) = signature.args[:2], arguments
        places = _listed(context, builder, kinds, arrays, first, two, two)
        for half, row in zip((places[:_HALF], places[_HALF:]), _zipped(builder, a, b), strict=True):
            wide = builder.fpext(row, vector(_DOUBLE))
            for k, place in enumerate(half):
                more = part(builder, wide, 2 * k, 2)
                builder.store(builder.fadd(builder.load(place, align=8), more), place, align=8)
        return context.get_dummy_value()

    return types.void(array, cells, types.intp, FLOATS, FLOATS), generate
