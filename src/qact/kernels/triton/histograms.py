"""Values added up by bins in histograms of whole tiles, which shared memory counts by atomics.

A histogram counts and adds no weights. So a weight is an integer here, and its digits are counted:
with ``R`` digits ``v``,

    sum_i w_i [bin_i = k] = sum_d R^d sum_v v #{i : bin_i = k, d-th digit of w_i = v}

These are sums of integers: exact, and so the same whatever the order. Triton counts large
histograms in this way since 3.8; before, every lane compared every value with each of its bins.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Bits of a weight's integer, and how many of them are behind the point.
BITS, POINT = tl.constexpr(24), tl.constexpr(21)


@triton.jit
def blank(K: tl.constexpr, SPAN: tl.constexpr, kind: tl.constexpr):
    """Bins of all channels of a program, empty, (SPAN) or (K, SPAN)."""
    return tl.zeros([SPAN] if K == 1 else [K, SPAN], kind)


@triton.jit
def _digits(digit, cell, mask, R: tl.constexpr, K: tl.constexpr, SPAN: tl.constexpr):
    """How many values of each bin have each digit, (R, SPAN) or (K, R, SPAN)."""
    # Neighbours are bins, not digits: leading digits are alike, and would share a memory bank.
    at = cell & (SPAN - 1)
    inside = mask & (cell == at)
    if K > 1:
        at |= (tl.arange(0, K) * (R * SPAN))[None, :]
    at = digit * SPAN | at
    size: tl.constexpr = at.shape[0] * at.shape[1]
    seen = tl.histogram(tl.reshape(at, [size]), K * R * SPAN, tl.reshape(inside, [size]))
    return tl.reshape(seen, [R, SPAN] if K == 1 else [K, R, SPAN])


@triton.jit
def _along(R: tl.constexpr, K: tl.constexpr):
    """All digits, beside what :func:`_digits` gives."""
    v = tl.arange(0, R)
    return v[:, None] if K == 1 else v[None, :, None]


@triton.jit
def count(number, places, cell, part, mask, K: tl.constexpr, SPAN: tl.constexpr):
    """How many values each bin has, and the sum of their integers ``part``, up to 2^8.

    That is one more than three digits of three bits hold, so digits are as large as they can be:
    ``part = 32 a + 4 b + c`` with ``a, b, c`` up to 7, since 32 7 + 4 7 + 7 = 259.
    """
    axis: tl.constexpr = 0 if K == 1 else 1
    part, v = part.to(tl.int32), _along(8, K)
    a = tl.minimum(part >> 5, 7)
    b = tl.minimum((part - 32 * a) >> 2, 7)
    seen = _digits(a, cell, mask, 8, K, SPAN)
    number += tl.sum(seen, axis)
    places += 32 * tl.sum(seen * v, axis)
    places += 4 * tl.sum(_digits(b, cell, mask, 8, K, SPAN) * v, axis)
    places += tl.sum(_digits(part - 32 * a - 4 * b, cell, mask, 8, K, SPAN) * v, axis)
    return number, places


@triton.jit
def added(cell, weight, mask, K: tl.constexpr, SPAN: tl.constexpr):
    """Weights below 2 in size, rounded to 2^-21, added up by bin.

    Digits run from ``-R / 2``, so that none stands for the sign and none adds up to much. They are
    as large as there is room for: for 8192 counters of one channel, or 4096 of each of several.
    """
    R: tl.constexpr = (8192 if K == 1 else 4096) // SPAN
    bits: tl.constexpr = 4 if R == 16 else (3 if R == 8 else 2)
    axis: tl.constexpr = 0 if K == 1 else 1
    # ``R / 2`` in the place of every digit.
    half: tl.constexpr = 0x888888 if R == 16 else (0o44444444 if R == 8 else 0xAAAAAA)
    integer = tl.floor(weight * 2.0**POINT + 0.5).to(tl.int32) + half
    v, total = _along(R, K) - R // 2, blank(K, SPAN, tl.float32)
    for _ in range(0, BITS // bits):
        digit = (integer >> (BITS - bits)) & (R - 1)
        seen = _digits(digit, cell, mask, R, K, SPAN)
        total = total * R + tl.sum(seen * v, axis).to(tl.float32)
        integer = integer << bits
    return total * 0.5**POINT
