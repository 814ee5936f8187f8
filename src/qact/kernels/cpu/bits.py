"""Powers of two as the bits of a float64: a library would be called once per bin otherwise."""

from __future__ import annotations

import numpy as np

from qact.kernels.cpu.jit import jit
from qact.kernels.cpu.memory import seen_as

_FRACTION = (1 << 52) - 1


@jit
def power_of_two(e):  # type: ignore[no-untyped-def]
    """``2^e`` for normal numbers, ``-1022 <= e <= 1023``."""
    return seen_as(np.int64((e + 1023) << 52), np.float64)


@jit
def exponent_of(x):  # type: ignore[no-untyped-def]
    """``e`` of the power of two ``2^e`` that ``x > 0`` is, or of the next above it."""
    bits = seen_as(np.float64(x), np.int64)
    return (bits >> 52) - 1023 + (1 if bits & _FRACTION else 0)
