"""Values added up by bins, in one of two ways, and always to the same sums.

Every program has SPAN bins of its own at a time, in registers; who reads them adds them in one
order. A tile's values are added up in a `HISTOGRAM` of shared memory or else, with a Triton whose
histograms are slow, in products of matrices.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton import histograms, products
from qact.kernels.triton.tiles import largest, leading

# Float32 adds integers exactly below 2^24, and a place is up to 2^8: so many values between them.
EXACT = tl.constexpr(1 << 16)


@triton.jit
def blank(K: tl.constexpr, SPAN: tl.constexpr, kind: tl.constexpr, HISTOGRAM: tl.constexpr):
    """Bins of all channels of a program, empty; products add integers up in float32 too."""
    return histograms.blank(K, SPAN, kind) if HISTOGRAM else products.blank(K)


@triton.jit
def tally(
    number, places, cell, part, mask,
    K: tl.constexpr, SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
):  # fmt: skip
    """Count a tile's values in bins ``0 ... SPAN``, and sum up their integers ``part`` to 2^8."""
    if HISTOGRAM:
        number, places = histograms.count(number, places, cell, part, mask, K, SPAN)
    else:
        number, places = products.count(number, places, cell, part, mask, K)
    return number, places


@triton.jit
def weigh(
    all, right, cell, place, g, mask,
    K: tl.constexpr, SPAN: tl.constexpr, HISTOGRAM: tl.constexpr,
):  # fmt: skip
    """Sum up a tile's gradients ``g`` in bins ``0 ... SPAN``, and ``g`` times the place."""
    mask = mask & (tl.abs(g) < float("inf"))
    g = tl.where(mask, g, 0.0)
    # In units of a power of two near the channel's largest: they are below 2 then.
    unit = tl.maximum(leading(largest(tl.abs(g), K)), 2.0**-100)
    unit = tl.minimum(unit, 2.0**126)  # whose reciprocal is a normal number
    g = g * (1.0 / unit)
    if HISTOGRAM:
        if K > 1:
            unit = unit[:, None]
        whole = histograms.added(cell, g, mask, K, SPAN)
        part = histograms.added(cell, g * place, mask, K, SPAN)
    else:
        if K > 1:
            unit = unit[:, None, None]
        which, column = products.one_hot(cell, mask, K)
        whole = products.added(which, column, g, K)
        part = products.added(which, column, g * place, K)
    return tl.fma(whole, unit, all), tl.fma(part, unit, right)


@triton.jit
def put(row, base, bins, exists, content, K: tl.constexpr, SPAN: tl.constexpr):
    """Store bins ``base ... base + SPAN`` of channels that have so many; ``row`` points to 0."""
    k = base + tl.arange(0, SPAN)
    if K == 1:
        content, at, inside = tl.reshape(content, [SPAN]), row + k, k <= bins
    else:
        content = tl.reshape(content, [K, SPAN])
        at, inside = row[:, None] + k[None, :], k[None, :] <= bins[:, None]
        inside = inside & exists[:, None]
    tl.store(at, content, mask=inside)


@triton.jit
def join(parts, stride, S, k, mask):
    """Sum up what ``S`` programs have counted, ``stride`` apart, and leave it with the first."""
    if S > 1:
        content = tl.load(parts + k, mask=mask, other=0, cache_modifier=".cg")
        # Four at once, since each waits for memory, and nothing else runs beside it.
        for s in tl.range(1, S, loop_unroll_factor=4):
            at = parts + tl.cast(s, tl.int64) * stride + k
            content += tl.load(at, mask=mask, other=0, cache_modifier=".cg")
        tl.store(parts + k, content, mask=mask)
        tl.debug_barrier()
