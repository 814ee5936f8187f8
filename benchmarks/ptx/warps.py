"""Instructions of 32 lanes together: shuffles, reductions, matrices in pieces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptx.values import Lanes

WARP = 32


def by_warp(numbers: Lanes, lanes: int) -> Lanes:
    """(warps, 32): a warp's lanes beside each other."""
    return np.broadcast_to(numbers, lanes).reshape(-1, WARP)


def sources(mode: str, by: Lanes, clamp: Lanes) -> NDArray:
    """From which lane each lane reads: from itself, where no lane of its segment is meant."""
    lane = np.arange(WARP)
    by, value = by.astype(np.int64) & 31, clamp.astype(np.int64) & 31
    segment = clamp.astype(np.int64) >> 8 & 31
    most, least = lane & segment | value & ~segment, lane & segment
    if mode == "up":
        source = lane - by
        inside = source >= most
    elif mode == "idx":
        source = least | by & ~segment
        inside = source <= most
    else:
        source = lane + by if mode == "down" else lane ^ by
        inside = source <= most
    return np.where(inside, source, lane)


REDUCTIONS = {"add": np.add, "max": np.maximum, "min": np.minimum}
REDUCTIONS |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def reduced(operation: str, numbers: Lanes, members: NDArray) -> Lanes:
    """``redux.sync``: every lane's sum, or the like, over a warp's ``members``."""
    made = np.empty_like(numbers)
    for warp in range(numbers.shape[0]):
        of = numbers[warp, members[warp]]
        made[warp] = REDUCTIONS[operation].reduce(of, dtype=numbers.dtype) if of.size else 0
    return made


def ballot(chosen: NDArray) -> Lanes:
    """``vote.sync.ballot``: a bit of every lane (warps, 32), for all of them."""
    bits = (chosen.astype(np.uint32) << np.arange(WARP, dtype=np.uint32)).sum(1, dtype=np.uint32)
    return np.repeat(bits, WARP)


LANE = np.arange(WARP)
GROUP, WITHIN = LANE // 4, LANE % 4  # in a fragment of a matrix: its row, and its pair of columns


def halves(words: list[Lanes]) -> NDArray:
    """Words (warps, 32) as halves (warps, 32, 2 words)."""
    stacked = np.ascontiguousarray(np.stack(words, -1).astype(np.uint32))
    return stacked.view(np.uint16).view(np.float16)


def product(a: list[Lanes], b: list[Lanes], c: list[Lanes]) -> list[Lanes]:
    """``mma.m16n8k16``: a (16 x 16) of halves times b (16 x 8), and c in float32."""
    left, right = halves(a).astype(np.float64), halves(b).astype(np.float64)
    warps = left.shape[0]
    matrix, other = np.empty((warps, 16, 16)), np.empty((warps, 16, 8))
    for word in range(4):
        for half in range(2):
            row, column = GROUP + 8 * (word % 2), 2 * WITHIN + half + 8 * (word // 2)
            matrix[:, row, column] = left[:, :, 2 * word + half]
    for word in range(2):
        for half in range(2):
            other[:, 2 * WITHIN + half + 8 * word, GROUP] = right[:, :, 2 * word + half]
    summed = matrix @ other
    made = []
    for word in range(4):
        row, column = GROUP + 8 * (word // 2), 2 * WITHIN + word % 2
        made.append((c[word] + summed[:, row, column]).astype(np.float32))
    return made


def rows_of(addresses: Lanes, matrices: int) -> list[Lanes]:
    """``ldmatrix``, ``stmatrix``: for each matrix the address (warps, 8) of its rows."""
    return [addresses[:, 8 * m : 8 * m + 8] for m in range(matrices)]


def elements(rows: Lanes, half: int, transposed: bool) -> Lanes:
    """Where a lane's first or second half of a matrix stands: (warps, 32) addresses."""
    if transposed:
        return rows[:, 2 * WITHIN + half] + 2 * GROUP
    return rows[:, GROUP] + 2 * (2 * WITHIN + half)
