"""How every kernel is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums may be taken in any order, so that they use the whole width of the processor; what is not a
# number is found beforehand, on the bits.
FAST = {"reassoc", "contract", "nsz", "arcp", "nnan"}

jit: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
