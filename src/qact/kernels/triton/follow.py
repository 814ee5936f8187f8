"""The running context and the norms' statistics move towards a batch whose bins are counted.

The arithmetic of `qact.kernels.cpu.follow`. There a bin is added to the cell it falls into; here,
where many cells are made at once, every cell collects the bins that fall into it, in their order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qact.kernels.triton.constants import (
    BINS,
    COUNTS,
    FINITE,
    FULL,
    IN_MEAN,
    IN_VAR,
    MEAN,
    OFFSET,
    ONE,
    OUT_MEAN,
    OUT_VAR,
    PARTS,
    STATE,
    STD,
    TRACE,
    TRIM,
    WIDTH,
)

# A counter's lower half says how many batches, its upper half how many programs are through.
TICKET = tl.constexpr(1 << 32)


@triton.jit
def step_size(batches, momentum):
    """How far to move: the mean over batches at first, then ``momentum``; float64."""
    seen = (tl.load(batches) & (TICKET - 1)).to(tl.float64)
    return tl.maximum(1.0 / (seen + 1.0), momentum)


@triton.jit
def advance(batches, programs):
    """Count one batch more, when the last of ``programs`` has come here.

    All of them read the counter before, so none may change it earlier. Its upper half, which is
    zero between launches, is where they meet.
    """
    tl.debug_barrier()
    through = tl.atomic_add(batches, TICKET, sem="acq_rel") >> 32
    if through == programs - 1:
        tl.atomic_add(batches, 1 - tl.cast(programs, tl.int64) * TICKET)


@triton.jit
def follow_norm(running_mean, running_var, batches, momentum, mean, variance, c, n, programs):
    """BatchNorm's running statistics, with the unbiased variance; ``momentum`` < 0 for the mean."""
    if running_mean is not None:
        rate = tl.where(momentum < 0, step_size(batches, 0.0), momentum)
        unbiased = variance * (n / tl.maximum(n - 1.0, 1.0))
        centre, spread = tl.load(running_mean + c), tl.load(running_var + c)
        centre = centre.to(tl.float64) + rate * (mean - centre.to(tl.float64))
        spread = spread.to(tl.float64) + rate * (unbiased - spread.to(tl.float64))
        tl.debug_barrier()  # all warps have read what one of them writes
        tl.store(running_mean + c, centre.to(running_mean.dtype.element_ty))
        tl.store(running_var + c, spread.to(running_var.dtype.element_ty))
        advance(batches, programs)


@triton.jit
def follow(
    hist, state, c, n, programs,
    mass, moment, mean, std, exponent, offset, batches, momentum, B,
    in_mean, in_var, in_batches, in_momentum, out_mean, out_var, out_batches, out_momentum,
    COUNTED: tl.constexpr, CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Everything that follows a batch, for channel ``c`` of ``programs``; ``hist`` is its row."""
    if mass is not None:
        at = state + c * STATE
        finite = tl.load(at + FINITE) > 0
        rate = step_size(batches, momentum)
        if finite:
            row = c.to(tl.int64) * B
            _move(
                hist, at, n, rate, mass + row, moment + row, mean + c, std + c, exponent + c,
                offset + c, B, CELLS, BLOCK,
            )  # fmt: skip
        if COUNTED:
            advance(batches, programs)
        nan = float("nan")
        seen, spread = tl.load(at + IN_MEAN), tl.load(at + IN_VAR)
        seen, spread = tl.where(finite, seen, nan), tl.where(finite, spread, nan)
        follow_norm(in_mean, in_var, in_batches, in_momentum, seen, spread, c, n, programs)
        seen, spread = tl.load(at + OUT_MEAN), tl.load(at + OUT_VAR)
        seen, spread = tl.where(finite, seen, nan), tl.where(finite, spread, nan)
        follow_norm(out_mean, out_var, out_batches, out_momentum, seen, spread, c, n, programs)


@triton.jit
def _move(
    hist, at, n, rate, mass, moment, mean, std, exponent, offset, B,
    CELLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``(1 - rate) stored + rate batch``, see `qact.rank.moving.moved`."""
    k = tl.arange(0, CELLS)
    own = tl.load(mass + k, mask=k < B, other=0.0)
    total = tl.sum(own.to(tl.float64), 0)
    known = total > 0
    rate = tl.where(known, rate, 1.0)
    width, start = tl.load(at + WIDTH), tl.load(at + OFFSET).to(tl.int64)
    batch = _exponent(width)
    bins = tl.load(at + BINS).to(tl.int32)
    first, last = _occupied(hist, bins, BLOCK)
    low, high = (start + first).to(tl.float64) * width, (start + last).to(tl.float64) * width
    old, begin = tl.load(exponent).to(tl.int32), tl.load(offset).to(tl.int64)
    left, right = _trimmed(own, k, total, B)
    wide = _power_of_two(old)
    inside = (low >= begin.to(tl.float64) * wide) & (high <= (begin + B).to(tl.float64) * wide)
    low = tl.where(known, tl.minimum(low, (begin + left).to(tl.float64) * wide), low)
    high = tl.where(known, tl.maximum(high, (begin + right).to(tl.float64) * wide), high)
    e, zero = _spanning(low, high, B)
    coarse = (high - low <= FULL * B * wide) & (e < old)
    stays = known & inside & ~coarse
    e, zero = tl.where(stays, old, e), tl.where(stays, begin, zero)
    # All that is stored is read before any of it is written.
    kept = tl.where(known, 1.0 - rate, 0.0).to(tl.float32)
    stored, place = _collect(mass, moment, False, kept, k, zero, B, begin, old, e, B)
    below, above = _outside(own, moment, kept, k, begin, old, e, zero, B)
    fresh, fresh_place = _collect(hist, hist, True, rate, k, zero, B, start, batch, e, bins + 1)
    stored += fresh + tl.where(k == 0, below, 0.0) + tl.where(k == B - 1, above, 0.0)
    place += fresh_place + tl.where(k == B - 1, above, 0.0)
    weight, part = stored.to(tl.float32), place.to(tl.float32)
    centre, spread = _joint(at, mean, std, (1.0 - rate) * total, rate * n)
    tl.debug_barrier()
    tl.store(mass + k, weight, mask=k < B)
    tl.store(moment + k, part, mask=k < B)
    tl.store(exponent, e.to(tl.float32))
    tl.store(offset, zero.to(tl.float32))
    read, width = _centred(weight, part, k, _power_of_two(e), zero, B)
    tl.store(mean, tl.where(stays, centre, read).to(tl.float32))
    tl.store(std, tl.where(stays, spread, width).to(tl.float32))


@triton.jit
def _joint(at, mean, std, own, fresh):
    """Mean and spread of what is stored and of the batch, weighing ``own`` and ``fresh``."""
    before, spread = tl.load(mean).to(tl.float64), tl.load(std).to(tl.float64)
    share, gap = fresh / (own + fresh), tl.load(at + MEAN) - before
    seen = tl.load(at + STD)
    variance = (1 - share) * spread * spread + share * (seen * seen + (1 - share) * gap * gap)
    return before + share * gap, tl.sqrt(variance)


@triton.jit
def _exponent(x):
    """``e`` of the power of two ``2^e`` that a float64 is, or the next above it."""
    bits = x.to(tl.int64, bitcast=True)
    return ((bits >> 52) - 1023).to(tl.int32) + ((bits & 0xFFFFFFFFFFFFF) != 0).to(tl.int32)


@triton.jit
def _power_of_two(e):
    return ((e.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _occupied(hist, bins, BLOCK: tl.constexpr):
    """First and one past the last of the batch's bins that are not empty."""
    k = tl.arange(0, BLOCK)
    full = tl.load(hist + k, mask=k <= bins, other=0, cache_modifier=".cg") != 0
    return tl.min(tl.where(full, k, bins), 0), tl.max(tl.where(full, k, 0), 0) + 1


@triton.jit
def _trimmed(mass, k, total, B):
    """The cells that hold all but a share `TRIM` of the mass on each side."""
    share = tl.cumsum(mass.to(tl.float64), 0)
    inside = k < B
    left = tl.sum((inside & (share <= TRIM * total)).to(tl.int32), 0)
    right = tl.sum((inside & (share < (1 - TRIM) * total)).to(tl.int32), 0) + 1
    return tl.minimum(left, B - 1), tl.minimum(right, B)


@triton.jit
def _spanning(low, high, B):
    """Exponent and first cell of the finest grid that covers both (`qact.rank.grid.spanning`)."""
    finest = tl.maximum(tl.maximum(tl.abs(low), tl.abs(high)) * 2.0**-23, 2.0**-120)
    e = _exponent(tl.maximum((high - low) / B, finest))
    width = _power_of_two(e)
    cells = -tl.floor(-high / width) - tl.floor(low / width)
    e += (cells > B).to(tl.int32)
    width = _power_of_two(e)
    first, last = tl.floor(low / width).to(tl.int64), (-tl.floor(-high / width)).to(tl.int64)
    return e, first - ((B - (last - first)) >> 1)


@triton.jit
def _contents(mass, moment, k, inside, PACKED: tl.constexpr):
    """Weight of bin ``k`` and the sum of places in it, float64."""
    if PACKED:
        packed = tl.load(mass + k, mask=inside, other=0, cache_modifier=".cg")
        weight = (packed >> COUNTS).to(tl.float64)
        places = (packed & (ONE - 1)).to(tl.float64) / PARTS
    else:
        weight = tl.load(mass + k, mask=inside, other=0.0).to(tl.float64)
        places = tl.load(moment + k, mask=inside, other=0.0).to(tl.float64)
    return weight, places


@triton.jit
def _resized(cell, place, old, new):
    """Cell and place (a mean) on a grid of another width."""
    # Beyond 62 halvings a bin is all of one side of zero, and shifts would overflow.
    up, down = tl.minimum(tl.maximum(new - old, 0), 62), tl.minimum(tl.maximum(old - new, 0), 30)
    wide = cell >> up
    coarse = ((cell - (wide << up)).to(tl.float64) + place) * _power_of_two(-up)
    fine = place * _power_of_two(down)
    jump = tl.minimum(tl.floor(fine).to(tl.int64), (1 << down.to(tl.int64)) - 1)
    finer = new < old
    return tl.where(finer, (cell << down) + jump, wide), tl.where(finer, fine - jump, coarse)


@triton.jit
def _collect(mass, moment, PACKED: tl.constexpr, factor, k, zero, B, begin, old, new, limit):
    """What cells ``zero + k`` of the new grid receive of ``limit`` old bins from ``begin`` on."""
    up, down = tl.minimum(tl.maximum(new - old, 0), 62), tl.minimum(tl.maximum(old - new, 0), 30)
    cell, weight, place = zero + k, (k * 0).to(tl.float64), (k * 0).to(tl.float64)
    start = tl.maximum(((cell >> down) << up) - begin, 0)
    many = tl.minimum(1 << tl.minimum(up, 20), limit)
    for j in range(0, many):
        source = start + j
        inside = (k < B) & (source < limit)
        w, p = _contents(mass, moment, source, inside, PACKED)
        w, p = w * factor, p * factor
        if not PACKED:
            inside = inside & (w >= TRACE)
        to, part = _resized(source + begin, p / tl.maximum(w, 1e-300), old, new)
        inside = inside & (to == cell) & (w > 0)
        weight += tl.where(inside, w, 0.0)
        place += tl.where(inside, part * w, 0.0)
    return weight, place


@triton.jit
def _outside(own, moment, factor, k, begin, old, new, zero, B):
    """The stored mass below and above the new grid."""
    weight = own.to(tl.float64) * factor
    places = tl.load(moment + k, mask=k < B, other=0.0).to(tl.float64) * factor
    cell, _ = _resized(k + begin, places / tl.maximum(weight, 1e-300), old, new)
    weight = tl.where(weight >= TRACE, weight, 0.0)
    below = tl.sum(tl.where(cell < zero, weight, 0.0), 0)
    return below, tl.sum(tl.where(cell >= zero + B, weight, 0.0), 0)


@triton.jit
def _centred(mass, moment, k, width, offset, B):
    """Mean and spread read off the bins."""
    m, half = mass.to(tl.float64), tl.cast(B // 2, tl.float64)
    total = tl.maximum(tl.sum(m, 0), 1e-300)
    left = k.to(tl.float64) - half
    centre = tl.sum(m * left + moment.to(tl.float64), 0) / total
    place = left - centre + moment.to(tl.float64) / tl.maximum(m, 1e-30)
    second = tl.sum(m * place * place, 0) / total
    return (offset.to(tl.float64) + half + centre) * width, tl.sqrt(second) * width
