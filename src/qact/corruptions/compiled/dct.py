"""The transforms of `qact.corruptions.dct` on eight blocks at once, quantisation between them.

Value (row, column) of block ``m`` lies at ``(8 row + column) 8 + m`` of one flat array of int32, so
the innermost loops run along the eight blocks. Integers are cut to 32 bits at each step, as
compilers need to be told before they use the width of the processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qact.corruptions.compiled.jit import inline
from qact.corruptions.dct import BITS, fixed

LANES = 8  # blocks
SIZE = 64 * LANES
_i = np.int32
_LOW, _ON_A, _ON_B = _i(fixed(0.541196100)), _i(fixed(0.765366865)), _i(fixed(1.847759065))
_Z5, _Z1, _Z2 = _i(fixed(1.175875602)), _i(fixed(0.899976223)), _i(fixed(2.562915447))
_Z3, _Z4 = _i(fixed(1.961570560)), _i(fixed(0.390180644))
_A, _B, _C, _D = (_i(fixed(v)) for v in (0.298631336, 2.053119869, 3.072711026, 1.501321110))


@inline
def _odd(a: Any, b: Any, c: Any, d: Any) -> Any:
    z1, z2, z3, z4 = _i(a + d), _i(b + c), _i(a + c), _i(b + d)
    z5 = _i(_i(z3 + z4) * _Z5)
    z1, z2 = _i(-_i(z1 * _Z1)), _i(-_i(z2 * _Z2))
    z3, z4 = _i(z5 - _i(z3 * _Z3)), _i(z5 - _i(z4 * _Z4))
    return (
        _i(_i(_i(a * _A) + z1) + z3),
        _i(_i(_i(b * _B) + z2) + z4),
        _i(_i(_i(c * _C) + z2) + z3),
        _i(_i(_i(d * _D) + z1) + z4),
    )


@inline
def _down(x: Any, bits: Any) -> Any:
    return _i(_i(x + _i(1 << (bits - 1))) >> _i(bits))


@inline
def _ahead(x: Any, at: Any, step: Any, first: Any) -> None:
    """The transform of the eight values from ``at`` on, ``step`` apart."""
    x0, x1, x2, x3 = x[at], x[at + step], x[at + 2 * step], x[at + 3 * step]
    x4, x5, x6, x7 = x[at + 4 * step], x[at + 5 * step], x[at + 6 * step], x[at + 7 * step]
    s0, s1, s2, s3 = _i(x0 + x7), _i(x1 + x6), _i(x2 + x5), _i(x3 + x4)
    y7, y5, y3, y1 = _odd(_i(x3 - x4), _i(x2 - x5), _i(x1 - x6), _i(x0 - x7))
    t10, t13, t11, t12 = _i(s0 + s3), _i(s0 - s3), _i(s1 + s2), _i(s1 - s2)
    shift = BITS - 2 if first else BITS + 2
    shared = _i(_i(t13 + t12) * _LOW)
    y2, y6 = _i(_i(t13 * _ON_A) + shared), _i(shared - _i(t12 * _ON_B))
    y0, y4 = _i(t10 + t11), _i(t10 - t11)
    x[at] = _i(y0 << _i(2)) if first else _down(y0, 2)
    x[at + 4 * step] = _i(y4 << _i(2)) if first else _down(y4, 2)
    x[at + step], x[at + 2 * step] = _down(y1, shift), _down(y2, shift)
    x[at + 3 * step], x[at + 5 * step] = _down(y3, shift), _down(y5, shift)
    x[at + 6 * step], x[at + 7 * step] = _down(y6, shift), _down(y7, shift)


@inline
def _back(x: Any, at: Any, step: Any, first: Any) -> None:
    """The inverse of :func:`_ahead`, with the scaling of libjpeg."""
    x0, x1, x2, x3 = x[at], x[at + step], x[at + 2 * step], x[at + 3 * step]
    x4, x5, x6, x7 = x[at + 4 * step], x[at + 5 * step], x[at + 6 * step], x[at + 7 * step]
    shared = _i(_i(x2 + x6) * _LOW)
    low, high = _i(_i(x2 * _ON_A) + shared), _i(shared - _i(x6 * _ON_B))
    plus, minus = _i(_i(x0 + x4) << _i(BITS)), _i(_i(x0 - x4) << _i(BITS))
    e0, e1, e2, e3 = _i(plus + low), _i(minus + high), _i(minus - high), _i(plus - low)
    o3, o2, o1, o0 = _odd(x7, x5, x3, x1)
    shift = BITS - 2 if first else BITS + 5
    x[at], x[at + 7 * step] = _down(_i(e0 + o0), shift), _down(_i(e0 - o0), shift)
    x[at + step], x[at + 6 * step] = _down(_i(e1 + o1), shift), _down(_i(e1 - o1), shift)
    x[at + 2 * step], x[at + 5 * step] = _down(_i(e2 + o2), shift), _down(_i(e2 - o2), shift)
    x[at + 3 * step], x[at + 4 * step] = _down(_i(e3 + o3), shift), _down(_i(e3 - o3), shift)


@inline
def coded(x: Any, steps: Any) -> None:
    """Transform, quantise by ``steps`` (64,) and reconstruct eight blocks of levels less 128."""
    for row in range(8):
        for m in range(LANES):
            _ahead(x, row * 8 * LANES + m, LANES, True)
    for p in range(8 * LANES):
        _ahead(x, p, 8 * LANES, False)
    for k in range(64):
        step = steps[k]
        half, whole = _i(step * 4), np.float32(step * 8)
        for m in range(LANES):
            value = x[k * LANES + m]
            level = _i(np.floor(np.float32(_i(abs(value) + half)) / whole))
            x[k * LANES + m] = _i(_i(-level if value < 0 else level) * step)
    for p in range(8 * LANES):
        _back(x, p, 8 * LANES, True)
    for row in range(8):
        for m in range(LANES):
            _back(x, row * 8 * LANES + m, LANES, False)
