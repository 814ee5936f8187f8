"""What fused engines agree on: columns of a channel's state, kinds, limits of grids, their refusal.

Plain numbers, so that an engine can be imported without the compiler of another.
"""

from __future__ import annotations

from qact.rank.grid import PARTS as PLACES


class UnusableError(RuntimeError):
    """A compiled engine that is there and does not work; nothing has been moved."""


# Columns of a channel's state: what the backward pass needs beside the input.
(MEAN, STD, WIDTH, OFFSET, BINS, NEGATIVE, BANDWIDTH) = range(7)
(IN_MEAN, IN_VAR, OUT_MEAN, OUT_VAR, FINITE) = range(7, 12)
STATE = 12
# `FINITE` is 0 or 1; this, where a channel was done beside others: `qact.kernels.cpu.few`.
ABREAST = 2
# Places in `qact.rank.rule.GROUNDINGS`.
SIDES, CONTINUOUS = 1, 2
# Kinds of level, in the order of `qact.kernels.plan.KINDS`.
UNIFORM, NORMAL, RELU, STEPS = range(4)

# Bins per bandwidth, at least, and fewer for contexts of less than FEW values, which say less
# than a grid could; and the most bins that a channel may take.
FINENESS, COARSE, FEW, MOST = 6.0, 3.0, 256, 2046
# By Chebyshev at most 1/400 of the mass lies further out than this many standard deviations.
REACH = 20.0
# Beyond this many bandwidths the kernel holds 7e-6 of its mass; so many bins it may cover.
KERNEL, TAPS = 4.5, 64
# Positions inside a bin are counted in 256ths; one integer carries the count above them. A bin
# holds 2^27 values: their positions sum to less than 2^36.
COUNTS = 36
PARTS, ONE = float(PLACES), 1 << COUNTS
