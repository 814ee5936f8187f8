"""Elementary functions of one float32, written so that a loop over them fills the vector units.

Polynomials after a reduction of the argument, no branches, no tables: four to eight times as fast
as a call per value. Errors are a few units in the last place; what is not a number stays so, and
results stop at the largest powers of two instead of overflowing.
"""

from __future__ import annotations

import math

import numpy as np

from qact.kernels.cpu.jit import strict, summing

f4 = np.float32
_LOG2E, _LN2_HIGH, _LN2_LOW = f4(1 / math.log(2)), f4(0.693359375), f4(-2.12194440e-4)
# Adding it leaves an integer in the low bits of the mantissa, unless sums are reordered.
_ROUND = f4(1.5 * 2**23)
ZERO, HALF, ONE, TWO = f4(0), f4(0.5), f4(1), f4(2)


@strict
def clamp(x, low, high):  # type: ignore[no-untyped-def]
    """``min(max(x, low), high)``; a NaN stays."""
    x = low if x < low else x
    return high if x > high else x


@strict
def exp(x):  # type: ignore[no-untyped-def]
    """``e^x``, of ``x`` in [-87.3, 88.3]: ``2^n e^r`` with ``|r| <= log(2) / 2``."""
    x = clamp(x, f4(-87.3), f4(88.3))
    shifted = x * _LOG2E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    square = r * r
    odd = f4(8.3334519073e-3) + r * f4(1.3981999507e-3) + square * f4(1.9875691500e-4)
    even = f4(1.6666665459e-1) + r * f4(4.1665795894e-2)
    y = ((odd * square + even) * r + HALF) * square + (r + ONE)
    power = np.int32((f4(shifted).view(np.int32) << 23) + 0x3F800000)
    return y * np.int32(power).view(np.float32)


@strict
def log(x):  # type: ignore[no-untyped-def]
    """``log x`` of a positive ``x``: ``k log(2) + log(m)`` with ``m`` from 0.7 to 1.4."""
    bits = f4(x).view(np.int32)
    above = np.int32(bits - 0x3F3504F3)  # of the root of 1/2
    k = np.int32(above >> 23)
    m = np.int32(bits - (k << 23)).view(np.float32)
    s = (m - ONE) / (m + ONE)
    z = s * s
    series = f4(0.66666666666) + z * (f4(0.39999994) + z * (f4(0.28574407) + z * f4(0.22807664)))
    n = f4(k)
    return n * _LN2_HIGH + (s * (TWO + z * series) + n * _LN2_LOW) + (x - x)


@strict
def sigmoid(x):  # type: ignore[no-untyped-def]
    """``1 / (1 + e^-x)``."""
    return ONE / (ONE + exp(-x))


@strict
def tanh(x):  # type: ignore[no-untyped-def]
    """``2 sigmoid(2 x) - 1``, exact in absolute terms."""
    return ONE - TWO / (ONE + exp(TWO * x))


@strict
def softplus(x):  # type: ignore[no-untyped-def]
    """``log(1 + e^x) = max(0, x) + 2 artanh(s / (2 + s))`` with ``s = e^-|x|``."""
    small = exp(-abs(x))
    z = small / (TWO + small)
    q = z * z
    series = ONE + q * (
        f4(0.3333320819) + q * (f4(0.2001076047) + q * (f4(0.1400095966) + q * f4(0.1400568821)))
    )
    return (x if x > ZERO else ZERO) + TWO * z * series


@strict
def erfc(x):  # type: ignore[no-untyped-def]
    """``1 - erf x``; Chebyshev fit in ``1 / (1 + |x| / 2)``, relative error below 1.2e-7.

    Numerical Recipes in C, 2nd edition, section 6.2.
    """
    z = abs(x)
    t = ONE / (ONE + HALF * z)
    p = f4(-0.82215223) + t * f4(0.17087277)
    p = f4(1.48851587) + t * p
    p = f4(-1.13520398) + t * p
    p = f4(0.27886807) + t * p
    p = f4(-0.18628806) + t * p
    p = f4(0.09678418) + t * p
    p = f4(0.37409196) + t * p
    p = f4(1.00002368) + t * p
    tail = t * exp(-z * z - f4(1.26551223) + t * p)
    return tail if x >= ZERO else TWO - tail


@strict
def atan(x):  # type: ignore[no-untyped-def]
    """``arctan x`` by its odd series, after ``arctan x = pi/2 - arctan(1/x)`` beyond 1."""
    z = abs(x)
    far = z > ONE
    u = ONE / z if far else z
    # From [0, 1] to |v| <= tan(pi/8): arctan u = pi/4 + arctan((u - 1) / (u + 1))
    upper = u > f4(math.sqrt(2) - 1)
    v = (u - ONE) / (u + ONE) if upper else u
    q = v * v
    p = f4(-1.38776856032e-1) + q * f4(8.05374449538e-2)
    p = f4(1.99777106478e-1) + q * p
    p = f4(-3.33329491539e-1) + q * p
    angle = v + v * q * p + (f4(math.pi / 4) if upper else ZERO)
    angle = f4(math.pi / 2) - angle if far else angle
    return angle if x >= ZERO else -angle


@strict
def sign(x):  # type: ignore[no-untyped-def]
    """-1, 0 or 1; a NaN stays."""
    return ONE if x > ZERO else (-ONE if x < ZERO else x)


@summing
def plus(total, x):  # type: ignore[no-untyped-def]
    """A term of a sum, in any order."""
    return total + x
