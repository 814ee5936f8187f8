"""Work shared out among the threads that torch already has.

A second pool would fight for the cores with torch's own, whose idle threads keep spinning for a
while after every operation. So kernels run in torch's OpenMP team, entered through its library.
Where that is not GNU-compatible, threads of our own do the work.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from numba import carray, cfunc, types

# Below this many values a second thread costs more than it saves.
SERIAL = 4096
FRAME = 256


class Kernel:
    """A compiled function of ``(frame, thread, threads)``, run by a team."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self._entry: Any = None

    def __call__(self, frame: np.ndarray, channels: int, values: int) -> None:
        """Run it on all threads that ``values`` in so many channels are worth."""
        threads = min(torch.get_num_threads(), channels)
        if threads == 1 or values < SERIAL:
            self.function(frame, 0, 1)
        elif (parallel := _openmp()) is not None:
            padded = np.zeros(FRAME, np.int64)
            padded[: frame.size] = frame
            parallel(self._team(), padded.ctypes.data, threads, 0)
        else:
            jobs = [_pool(threads).submit(self.function, frame, i, threads) for i in range(threads)]
            for job in jobs:
                job.result()

    def _team(self) -> Any:
        if self._entry is None:
            function, thread = self.function, _number("omp_get_thread_num")
            threads = _number("omp_get_num_threads")

            @cfunc("void(voidptr)", nopython=True)
            def entry(data):  # type: ignore[no-untyped-def]
                function(carray(data, (FRAME,), np.int64), thread(), threads())

            self._entry = entry
        return self._entry.address


@lru_cache(maxsize=1)
def _openmp() -> Any:
    """``GOMP_parallel`` of the library that torch has loaded, or None."""
    try:
        loaded = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = re.findall(r"(/\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so[^/\s]*)$", loaded, re.MULTILINE)
    paths = sorted(set(found), key=lambda path: ("torch" not in path, path))
    for path in paths:
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            for name in ("omp_get_thread_num", "omp_get_num_threads"):
                address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
                llvmlite.binding.add_symbol(f"qact_{name}", address)
            entry = library.GOMP_parallel
            entry.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            entry.restype = None
            return entry
    return None


def _number(name: str) -> Any:
    return types.ExternalFunction(f"qact_{name}", types.int32())


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="qact")


# A forked process has the pool's queue, but none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
