"""Instructions that every lane runs for itself: numbers in, a number out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ptx.values import TYPES, WIDTHS, Lanes, flush, from_bfloat16, to_bfloat16

Function = Callable[..., Lanes]


def wide(kind: str) -> str:
    """The type of twice the width."""
    return f"{kind[0]}{2 * WIDTHS[kind]}"


def _divide(a: Lanes, b: Lanes) -> Lanes:
    if a.dtype.kind == "f":
        return a / b
    # Towards zero; by zero all bits are set, as a card has it.
    safe = np.where(b == 0, 1, b)
    quotient = np.abs(a) // np.abs(safe) * (np.sign(a) * np.sign(safe))
    return np.where(b == 0, np.array(-1).astype(a.dtype), quotient.astype(a.dtype))


def _remainder(a: Lanes, b: Lanes) -> Lanes:
    return np.where(b == 0, a, a - _divide(a, b) * np.where(b == 0, 1, b)).astype(a.dtype)


def fused(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """``a b + c`` rounded once: float32 in float64, whose own rounding shows in 1 of 2^29."""
    if a.dtype == np.float32:
        return (a.astype(np.float64) * b + c).astype(np.float32)
    return (a.astype(np.longdouble) * b + c).astype(a.dtype)


def _shift_left(a: Lanes, by: Lanes) -> Lanes:
    bits = 8 * a.dtype.itemsize
    return np.where(by >= bits, 0, a << np.minimum(by, bits - 1).astype(a.dtype)).astype(a.dtype)


def _shift_right(a: Lanes, by: Lanes) -> Lanes:
    bits = 8 * a.dtype.itemsize
    moved = a >> np.minimum(by, bits - 1).astype(a.dtype)
    return moved if a.dtype.kind == "i" else np.where(by >= bits, 0, moved).astype(a.dtype)


def _field(a: Lanes, start: Lanes, length: Lanes) -> Lanes:
    """Bits of a number: ``length`` of them from ``start``, with their sign where they have one."""
    start, length = (x.astype(np.int64) & 255 for x in (start, length))
    bits = 8 * a.dtype.itemsize
    kept = np.minimum(start + length, bits)
    left = _shift_left(a.view(f"u{a.dtype.itemsize}"), bits - kept).view(a.dtype)
    return np.where(length == 0, 0, _shift_right(left, bits - kept + start)).astype(a.dtype)


def _permute(a: Lanes, b: Lanes, chosen: Lanes) -> Lanes:
    """Four of eight bytes: each by three bits, and by a fourth its sign alone."""
    eight = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    made = np.zeros(np.broadcast(a, b, chosen).shape, np.uint32)
    for place in range(4):
        nibble = chosen >> np.uint32(4 * place)
        shift = 8 * (nibble & np.uint32(7)).astype(np.uint64)
        byte = (eight >> shift & np.uint64(255)).astype(np.uint32)
        sign = np.where(byte >> np.uint32(7), 255, 0).astype(np.uint32)
        made |= np.where(nibble & np.uint32(8), sign, byte) << np.uint32(8 * place)
    return made


def _ones(a: Lanes) -> Lanes:
    return np.bitwise_count(a).astype(np.uint32)


def _larger(a: Lanes, b: Lanes) -> Lanes:
    """The number of two, where one is none; of two zeros the one above."""
    made = np.fmax(a, b)
    if made.dtype.kind == "f":
        made = np.where((a == 0) & (b == 0), np.where(np.signbit(a), b, a), made)
    return made


def _smaller(a: Lanes, b: Lanes) -> Lanes:
    return -_larger(-a, -b) if a.dtype.kind == "f" else np.minimum(a, b)


UNARY: dict[str, Function] = {
    "abs": np.abs,
    "neg": np.negative,
    "not": lambda a: ~a,
    "sqrt": np.sqrt,
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda a: 1 / a,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "popc": _ones,
}
BINARY: dict[str, Function] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "rem": _remainder,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "shl": _shift_left,
    "shr": _shift_right,
    "min": _smaller,
    "max": _larger,
    # PTX gives the second operand the sign of the first.
    "copysign": lambda a, b: np.copysign(b, a),
}
TERNARY: dict[str, Function] = {"bfe": _field, "prmt": _permute}
COMPARISONS: dict[str, Function] = {
    "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}
# The same, and true where one is no number.
COMPARISONS |= {
    f"{name}u": lambda a, b, of=function: of(a, b) | np.isnan(a) | np.isnan(b)
    for name, function in list(COMPARISONS.items())[:6]
}
APPROXIMATE = ("approx", "full")
_NUDGE = np.uint32(2654435761)


def approximated(numbers: Lanes) -> Lanes:
    """A result off by a unit in the last place, up or down: a card promises no more than two."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    up = (bits * _NUDGE) >> np.uint32(31) == 1
    moved = np.nextafter(numbers, np.where(up, np.float32(np.inf), np.float32(-np.inf)))
    few = bits & np.uint32(0xFFF) == 0  # powers of two, roots of squares: exact on a card too
    return np.where(few | ~np.isfinite(moved), numbers, moved).astype(numbers.dtype)


def function(name: str, modifiers: tuple[str, ...]) -> tuple[Function, list[str], str]:
    """What an instruction computes, of operands of which types, to a number of which type.

    Raises:
        NotImplementedError: an instruction that none of our kernels has had.
    """
    kind = modifiers[-1]
    if kind == "bf16":
        return _in_bfloat16(name, modifiers)
    if name == "setp":
        return COMPARISONS[modifiers[0]], [kind, kind], "pred"
    if name == "selp":
        return lambda a, b, chosen: np.where(chosen, a, b), [kind, kind, "pred"], kind
    if name in ("mul", "mad", "fma"):
        return _product(name, modifiers, kind)
    if name in UNARY:
        kinds, plain = [kind], UNARY[name]
    elif name in BINARY:
        by = "u32" if name in ("shl", "shr") else kind
        kinds, plain = [kind, by], BINARY[name]
    elif name in TERNARY:
        kinds, plain = [kind, "u32", "u32"], TERNARY[name]
    else:
        raise NotImplementedError(f"no PTX instruction {'.'.join((name, *modifiers))} here")
    if "NaN" in modifiers:
        plain = {"min": np.minimum, "max": np.maximum}[name]
    return _modified(plain, modifiers, kind), kinds, "u32" if name == "popc" else kind


def _in_bfloat16(name: str, modifiers: tuple[str, ...]) -> tuple[Function, list[str], str]:
    """In float32, rounded once more."""
    plain, kinds, out = function(name, (*modifiers[:-1], "f32"))
    kinds = ["bf16" if kind == "f32" else kind for kind in kinds]

    def rounded(*numbers: Lanes) -> Lanes:
        given = [
            from_bfloat16(x) if k == "bf16" else x for x, k in zip(numbers, kinds, strict=True)
        ]
        made = plain(*given)
        return to_bfloat16(made) if out == "f32" else made

    return rounded, kinds, "bf16" if out == "f32" else out


def _modified(plain: Function, modifiers: tuple[str, ...], kind: str) -> Function:
    """With what is flushed to zero, and what is only approximate."""
    made = plain
    if any(m in APPROXIMATE for m in modifiers):
        made = lambda *numbers: approximated(plain(*numbers).astype(TYPES[kind]))  # noqa: E731
    if "ftz" in modifiers:
        inner = made
        made = lambda *numbers: flush(inner(*map(flush, numbers)))  # noqa: E731
    return made


def _product(name: str, modifiers: tuple[str, ...], kind: str) -> tuple[Function, list[str], str]:
    count = 2 if name == "mul" else 3
    kinds, out = [kind] * count, kind
    if kind[0] == "f":
        plain: Any = np.multiply if name == "mul" else fused
        return _modified(plain, modifiers, kind), kinds, out
    if "wide" in modifiers:
        out = wide(kind)
        kinds[2:] = [out] * (count - 2)
    elif "hi" in modifiers:
        raise NotImplementedError(f"no PTX instruction {'.'.join((name, *modifiers))} here")

    def whole(a: Lanes, b: Lanes, c: Lanes | None = None) -> Lanes:
        product = a.astype(TYPES[out]) * b.astype(TYPES[out])
        return product if c is None else product + c

    return whole, kinds, out
