"""Numbers in registers: their types, and what becomes of one on its way to another."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

Lanes = NDArray  # a number for every lane

WIDTHS = {"pred": 1, "b8": 8, "b16": 16, "b32": 32, "b64": 64}
WIDTHS |= {f"{kind}{width}": width for kind in "us" for width in (8, 16, 32, 64)}
WIDTHS |= {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}
TYPES = {f"{kind}{width}": np.dtype(f"u{width // 8}") for kind in "bu" for width in (8, 16, 32, 64)}
TYPES |= {f"s{width}": np.dtype(f"i{width // 8}") for width in (8, 16, 32, 64)}
TYPES |= {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")}
TYPES |= {"pred": np.dtype(bool), "bf16": np.dtype("u2")}  # NumPy has no bfloat16: its bits


def register(kind: str) -> np.dtype:
    """What holds a register: its bits without a sign."""
    return TYPES["pred"] if kind == "pred" else np.dtype(f"u{WIDTHS[kind] // 8}")


def read(bits: Lanes, kind: str) -> Lanes:
    """A register's bits as numbers of this type: of a wider register the lower ones."""
    if kind == "pred" or bits.dtype == bool:
        return bits.astype(bool, copy=False)
    return bits.astype(f"u{WIDTHS[kind] // 8}", copy=False).view(TYPES[kind])


def write(numbers: Lanes, kind: str, held: np.dtype) -> Lanes:
    """Numbers of this type as the bits of a register: in a wider one the sign goes on."""
    if held.kind == "b":
        return numbers.astype(bool, copy=False)
    numbers = np.ascontiguousarray(numbers.astype(TYPES[kind], copy=False))
    if kind.startswith("s"):
        return numbers.astype(f"i{held.itemsize}", copy=False).view(held)
    return numbers.view(f"u{WIDTHS[kind] // 8}").astype(held, copy=False)


def constant(text: str, kind: str) -> np.generic:
    """An immediate as a number of this type: ``0f`` and ``0d`` are a float's bits."""
    if re.match(r"0[fFdD][0-9A-Fa-f]{8,16}$", text):
        bits = int(text[2:], 16)
        if text[1] in "fF" and kind == "f64":
            raise ValueError(f"{text} is a float32, not {kind}")
        return np.array(bits, f"u{WIDTHS[kind] // 8}").view(TYPES[kind])[()]
    whole = int(text.rstrip("U"), 0)
    if kind == "pred":
        return np.bool_(whole)
    bits = whole % (1 << WIDTHS[kind])
    return np.array(bits, f"u{WIDTHS[kind] // 8}").view(TYPES[kind])[()]


def flush(numbers: Lanes) -> Lanes:
    """``.ftz``: what is smaller than a normal number is zero, with its sign."""
    return np.where(np.abs(numbers) < np.finfo(np.float32).tiny, np.copysign(0, numbers), numbers)


def to_bfloat16(numbers: Lanes) -> Lanes:
    """float32 rounded to the nearest bfloat16, ties to even, as bits."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FFF), rounded)


def from_bfloat16(bits: Lanes) -> Lanes:
    """bfloat16's bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(numbers: Lanes, to: str, of: str, how: tuple[str, ...]) -> Lanes:
    """``cvt.how.to.of``."""
    if of == "bf16":
        numbers, of = from_bfloat16(numbers), "f32"
    if "ftz" in how and of == "f32":
        numbers = flush(numbers)
    rounding = next((ROUNDINGS[h] for h in how if h in ROUNDINGS), None)
    if rounding is not None:
        numbers = rounding(numbers)
    if to == "bf16":
        return to_bfloat16(numbers.astype(np.float32))
    if numbers.dtype.kind == "f" and TYPES[to].kind in "iu":
        return _saturated(numbers, TYPES[to])
    return numbers.astype(TYPES[to])


def packed(high: Lanes, low: Lanes, kind: str) -> Lanes:
    """Two float32 as two halves of a word: ``cvt.f16x2``."""
    halves = [write(convert(x, kind, "f32", ()), kind, np.dtype("u2")) for x in (high, low)]
    return halves[0].astype(np.uint32) << 16 | halves[1]


def _saturated(numbers: Lanes, to: np.dtype) -> Lanes:
    """A float as an integer: no more than there is, and of no number zero (64 bits: the lowest)."""
    info = np.iinfo(to)
    # The largest integer may be no float: what reaches the power of two above it is cut.
    over, under = numbers >= float(info.max) + (1 if info.bits < 53 else 0), numbers < info.min
    nan = np.isnan(numbers)
    whole = np.where(over | under | nan, 0, numbers).astype(to)
    whole = np.where(over, info.max, np.where(under, info.min, whole)).astype(to)
    nothing = (info.min if info.min else 1 << 63) if info.bits == 64 else 0
    return np.where(nan, np.array(nothing, to), whole)
