"""How kernels are compiled: once, kept on disk, without a door for Python."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.cpu import CPUContext
from numba.core.registry import cpu_target

from qact.kernels.cpu import ahead
from qact.kernels.cpu.places import PREFIX

# Sums may be taken in any order, so that they use the whole width of the processor; what is not a
# number is found beforehand, on the bits.
FAST = {"reassoc", "contract", "nsz", "arcp", "nnan"}
OPTIONS = {"error_model": "numpy", "fastmath": FAST}


class _Part(JITCodeLibrary):
    """A function's code for the kernels that call it: never optimised, nor run, by itself."""

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, env: Any) -> None:
        """Nothing here raises an error, so nothing needs the objects that one would be made of."""


class _Linked(Compiler):
    """Compiles a function as a part of kernels.

    Numba would optimise it and translate it by itself, then within each function that calls it, and
    within each that calls those; only the last is ever run. That is half of a cold start.
    """

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, library or _Part(target.codegen(), "part"), *rest)


PART = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# For what makes arrays, or returns them: it counts who holds them. Nothing else does; that is done
# by calls, around which a loop keeps no vector in a register.
owning: Callable[..., Any] = njit(pipeline_class=_Linked, **PART, **OPTIONS)
PART["_nrt"] = False
jit: Callable[..., Any] = njit(pipeline_class=_Linked, **PART, **OPTIONS)
# Arithmetic as it is written, which is said: else a function takes the options of its first caller.
# Vectors stay in registers only within one function.
_WRITTEN = {"error_model": "numpy", "fastmath": False, "forceinline": True}
exact: Callable[..., Any] = njit(pipeline_class=_Linked, **PART, **_WRITTEN)
# Only for what takes functions: every call of such a function is compiled once more.
inline: Callable[..., Any] = njit(inline="always", pipeline_class=_Linked, **PART, **OPTIONS)


KERNELS: list[Kernel] = []


class Kernel:
    """A C function of one address, see `qact.kernels.cpu.frame`: compiled when it is first needed.

    It is kept on disk, and all that it calls within it. What runs is always the code on disk, in an
    engine of its own: a process that has just compiled it also holds each function that it calls,
    compiled alone, and calls would lead there, to sums that round differently.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        KERNELS.append(self)

    @cached_property
    def compiled(self) -> Any:
        """With ``address`` and ``ctypes``, its two doors."""
        made = self._made()
        made.enable_caching()
        return ahead.load(self.function, Path(made._cache.cache_path)) or self.by_numba(made)

    def by_numba(self, made: Any) -> Any:
        """Compiled from Python, or by an earlier process."""
        made._targetdescr = _Engine()
        with _uncollected():
            made.compile()
        if not made.cache_hits:  # it was compiled, and is on disk now
            made.compile()
        return made

    def lowered(self) -> tuple[str, str]:
        """In LLVM's language, before it is optimised for a processor; and where it is entered."""
        made = self._made()
        with _uncollected():
            compiled = made._compiler.compile(made._sig.args, made._sig.return_type)
        library = compiled.library
        for part in dict.fromkeys(library._linking_libraries):
            library._final_module.link_in(part._get_module_for_linking(), preserve=True)
        return str(library._final_module), compiled.fndesc.llvm_cfunc_wrapper_name

    def _made(self) -> Any:
        return _Announced(self.function, ((types.voidptr,), types.void), {}, OPTIONS)


class _Announced(CFunc):
    """A function that says so when it has to be compiled, because that takes a while.

    Numba asks whether the file has changed that the function is in, not those that it calls.
    """

    def enable_caching(self) -> None:
        super().enable_caching()
        kept = self._cache._cache_file
        kept._source_stamp = kept._source_stamp, ahead.sources()

    def _compile_uncached(self) -> Any:
        announce(self._cache.cache_path)
        return super()._compile_uncached()


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for dead cycles among the millions of objects that a compiler makes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def announce(folder: str) -> None:
    """Say once, on stderr, that kernels are being compiled; ``QACT_QUIET=1`` keeps it silent."""
    if os.environ.get("QACT_QUIET", "") not in ("", "0"):
        return
    kept = f"once, for some ten seconds; they are kept in {folder}"
    if PREFIX in str(folder):
        kept = "in every process: name a folder that can be written to as NUMBA_CACHE_DIR"
    told = f"qact: compiling CPU kernels, {kept} (QACT_QUIET=1 silences this line)"
    print(told, file=sys.stderr, flush=True)


class _Engine:
    """Where code from disk is linked, beside that of no other kernel."""

    def __init__(self) -> None:
        self.target_context = CPUContext(cpu_target.typing_context)
