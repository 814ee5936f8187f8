"""The numbers of `qact.kernels.columns`, as kernels read them: known when they are compiled."""

from __future__ import annotations

import triton.language as tl

from qact.kernels import columns
from qact.rank import moving

MEAN, STD = tl.constexpr(columns.MEAN), tl.constexpr(columns.STD)
WIDTH, OFFSET = tl.constexpr(columns.WIDTH), tl.constexpr(columns.OFFSET)
BINS, NEGATIVE = tl.constexpr(columns.BINS), tl.constexpr(columns.NEGATIVE)
BANDWIDTH, FINITE = tl.constexpr(columns.BANDWIDTH), tl.constexpr(columns.FINITE)
IN_MEAN, IN_VAR = tl.constexpr(columns.IN_MEAN), tl.constexpr(columns.IN_VAR)
OUT_MEAN, OUT_VAR = tl.constexpr(columns.OUT_MEAN), tl.constexpr(columns.OUT_VAR)
STATE = tl.constexpr(columns.STATE)

SIDES, CONTINUOUS = tl.constexpr(columns.SIDES), tl.constexpr(columns.CONTINUOUS)
NORMAL, RELU = tl.constexpr(columns.NORMAL), tl.constexpr(columns.RELU)
STEPS = tl.constexpr(columns.STEPS)

COARSE, FEW = tl.constexpr(columns.COARSE), tl.constexpr(columns.FEW)
FINENESS, REACH = tl.constexpr(columns.FINENESS), tl.constexpr(columns.REACH)
KERNEL, TAPS = tl.constexpr(columns.KERNEL), tl.constexpr(columns.TAPS)
PARTS = tl.constexpr(columns.PARTS)
# A bin's sum of places, up to 2^8 for each value, and above it how many values: below 2^27.
COUNTS, ONE = tl.constexpr(36), tl.constexpr(1 << 36)

TRACE, TRIM = tl.constexpr(moving.TRACE), tl.constexpr(moving.TRIM)
FULL = tl.constexpr(moving.FULL)

# What the programs of a channel hand on: columns of the forward pass's parts.
COUNT, AVERAGE, SQUARE, LOW, HIGH, SOUND = map(tl.constexpr, range(6))
PARTIAL = tl.constexpr(6)
# And of the backward pass's: sums along each affine tensor, in pairs.
SUM_IN, SUM_SCORE, SUM_OUT = map(tl.constexpr, (0, 2, 4))
SUMS = tl.constexpr(6)
