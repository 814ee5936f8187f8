"""Powers and logarithms of float32 in loops of vectors, which calls of a library would forbid."""

from __future__ import annotations

import math

import numpy as np

from qact.kernels.cpu.jit import jit
from qact.kernels.cpu.memory import seen_as

# atanh(s) = s + s^3/3 + ...: log2 of the numbers around 1, of which s = (m - 1)/(m + 1) is small.
_LOG = tuple(np.float32(2 / math.log(2) / k) for k in (1, 3, 5, 7, 9))
_EXP = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(8))
TINY = np.float32(2.0**-126)  # the least normal number
_ROOT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1/2): where the mantissa's octave begins


@jit
def log2(x):  # type: ignore[no-untyped-def]
    """``log2 x`` of a normal ``x > 0``, to some 1e-7 of the larger of it and 1."""
    bits = seen_as(np.float32(x), np.int32) - _ROOT_HALF
    whole = bits >> 23
    m = seen_as(np.int32((bits & 0x7FFFFF) + _ROOT_HALF), np.float32)
    s = (m - np.float32(1)) / (m + np.float32(1))
    q = s * s
    series = _LOG[0] + q * (_LOG[1] + q * (_LOG[2] + q * (_LOG[3] + q * _LOG[4])))
    return np.float32(whole) + s * series


@jit
def exp2(y):  # type: ignore[no-untyped-def]
    """``2^y`` to some 1e-7 of it; what lies beyond the normal numbers is the last of them."""
    y = min(max(y, np.float32(-126)), np.float32(127))
    whole = np.int32(np.floor(y + np.float32(0.5)))
    f = y - np.float32(whole)
    low = _EXP[0] + f * (_EXP[1] + f * (_EXP[2] + f * _EXP[3]))
    high = _EXP[4] + f * (_EXP[5] + f * (_EXP[6] + f * _EXP[7]))
    square = f * f
    return (low + square * square * high) * seen_as(np.int32((whole + 127) << 23), np.float32)


@jit
def power(x, e):  # type: ignore[no-untyped-def]
    """``x^e`` of ``x > 0``, and 0 of what is not above 0."""
    found = exp2(e * log2(max(x, TINY)))
    return found if x > 0 else np.float32(0)
