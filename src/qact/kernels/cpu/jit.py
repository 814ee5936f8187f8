"""How kernels are compiled: once, kept on disk, without a door for Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from numba import cfunc, njit

# Sums may be taken in any order, so that they use the whole width of the processor; what is not a
# number is found beforehand, on the bits.
FAST = {"reassoc", "contract", "nsz", "arcp", "nnan"}
STRICT = {"contract", "nsz"}  # nothing is reordered, and a NaN counts
SUM = {"reassoc", "nsz"}
OPTIONS = {"error_model": "numpy", "fastmath": FAST, "no_cpython_wrapper": True}

jit: Callable[..., Any] = njit(nogil=True, no_cfunc_wrapper=True, **OPTIONS)
inline: Callable[..., Any] = njit(nogil=True, no_cfunc_wrapper=True, inline="always", **OPTIONS)
strict: Callable[..., Any] = njit(
    nogil=True, no_cfunc_wrapper=True, **{**OPTIONS, "fastmath": STRICT}
)
summing: Callable[..., Any] = njit(
    nogil=True, no_cfunc_wrapper=True, **{**OPTIONS, "fastmath": SUM}
)


class Kernel:
    """A C function of one address, see `qact.kernels.cpu.frame`: compiled when it is first needed.

    It is kept on disk, and all that it calls within it.
    """

    def __init__(self, function: Callable[..., None], fastmath: set[str] = FAST) -> None:
        self.function, self.fastmath = function, fastmath

    @classmethod
    def strict(cls, function: Callable[..., None]) -> Kernel:
        """A kernel in which nothing is reordered, and a NaN counts."""
        return cls(function, STRICT)

    @cached_property
    def compiled(self) -> Any:
        """With ``address`` and ``ctypes``, its two doors."""
        options = {"error_model": "numpy", "fastmath": self.fastmath}
        return cfunc("void(voidptr)", cache=True, **options)(self.function)
