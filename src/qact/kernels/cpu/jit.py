"""How kernels are compiled: once, kept on disk, without a door for Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

from numba import njit, types
from numba.core.ccallback import CFunc
from numba.core.cpu import CPUContext
from numba.core.registry import cpu_target

# Sums may be taken in any order, so that they use the whole width of the processor; what is not a
# number is found beforehand, on the bits.
FAST = {"reassoc", "contract", "nsz", "arcp", "nnan"}
OPTIONS = {"error_model": "numpy", "fastmath": FAST, "no_cpython_wrapper": True}

jit: Callable[..., Any] = njit(nogil=True, no_cfunc_wrapper=True, **OPTIONS)
inline: Callable[..., Any] = njit(nogil=True, no_cfunc_wrapper=True, inline="always", **OPTIONS)


class Kernel:
    """A C function of one address, see `qact.kernels.cpu.frame`: compiled when it is first needed.

    It is kept on disk, and all that it calls within it. What runs is always the code on disk, in an
    engine of its own: a process that has just compiled it also holds each function that it calls,
    compiled alone, and calls would lead there, to sums that round differently.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    @cached_property
    def compiled(self) -> Any:
        """With ``address`` and ``ctypes``, its two doors."""
        options = {"error_model": "numpy", "fastmath": FAST}
        made: Any = _Announced(self.function, ((types.voidptr,), types.void), {}, options)
        made.enable_caching()
        made._targetdescr = _Engine()
        made.compile()
        if not made.cache_hits:  # it was compiled, and is on disk now
            made.compile()
        return made


class _Announced(CFunc):
    """A function that says so when it has to be compiled, because that takes a while."""

    def _compile_uncached(self) -> Any:
        announce(self._cache.cache_path)
        return super()._compile_uncached()


@cache
def announce(folder: str) -> None:
    """Say once, on stderr, that kernels are being compiled; ``QACT_QUIET=1`` keeps it silent."""
    if os.environ.get("QACT_QUIET", "") in ("", "0"):
        print(
            f"qact: compiling CPU kernels, once; they are kept in {folder} "
            "(QACT_QUIET=1 silences this line)",
            file=sys.stderr,
            flush=True,
        )


class _Engine:
    """Where code from disk is linked, beside that of no other kernel."""

    def __init__(self) -> None:
        self.target_context = CPUContext(cpu_target.typing_context)
