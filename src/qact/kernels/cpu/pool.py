"""Work shared out among the threads that torch already has.

A second pool would fight for the cores with torch's own, whose idle threads keep spinning for a
while after every operation. So kernels run in torch's OpenMP team, entered through its library.
Where that is not GNU-compatible, threads of our own do the work.
"""

from __future__ import annotations

import ctypes
import os
import re
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from numba import types
from torch import Tensor

from qact.kernels.cpu.frame import ANSWER
from qact.kernels.cpu.jit import Kernel, jit

# Below this many values a second thread costs more than it saves.
SERIAL = 4096


def run(kernel: Kernel, frame: array[int], channels: int, values: int) -> None:
    """Run a kernel on all threads that ``values`` are worth.

    The first two integers of the frame say which thread of how many this is; none, that the
    thread is one of a team and must ask.
    """
    threads, entry = min(torch.get_num_threads(), channels), kernel.compiled
    if threads == 1 or values < SERIAL:
        frame[0], frame[1] = 0, 1
        entry.ctypes(frame.buffer_info()[0])
    elif _TEAM is not None:
        frame[0], frame[1] = 0, 0
        _TEAM(entry.address, frame.buffer_info()[0], threads, 0)
    else:
        copies = [frame[:] for _ in range(threads)]
        for i, copy in enumerate(copies):
            copy[0], copy[1] = i, threads
        jobs = [_pool(threads).submit(entry.ctypes, copy.buffer_info()[0]) for copy in copies]
        for job in jobs:
            job.result()
        frame[ANSWER] = max(copy[ANSWER] for copy in copies)


def split(kernel: Callable[..., None], values: int, channels: int, *arguments: Any) -> None:
    """Run ``kernel(first, last, ...)``, which leaves Python's lock, over ranges of channels."""
    threads = min(torch.get_num_threads(), channels)
    if threads == 1 or values < 8 * SERIAL:
        kernel(0, channels, *arguments)
        return
    cuts = np.linspace(0, channels, threads + 1).astype(int).tolist()
    jobs = [_pool(threads).submit(kernel, *cut, *arguments) for cut in pairwise(cuts)]
    for job in jobs:
        job.result()


def numbers(tensor: Tensor) -> Any:
    """The numbers of a tensor on a CPU as a contiguous array, where it can be the same memory."""
    return tensor.detach().contiguous().numpy()


def _openmp() -> tuple[Any, dict[str, int]]:
    """``GOMP_parallel`` of the library that torch has loaded, and what a thread may ask."""
    stand_in = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value
    names = ("omp_get_thread_num", "omp_get_num_threads")
    for path in _libraries():
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            entry = library.GOMP_parallel
            entry.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            entry.restype = None
            values = (ctypes.cast(getattr(library, n), ctypes.c_void_p).value for n in names)
            return entry, dict(zip(names, values, strict=True))
    return None, dict.fromkeys(names, stand_in or 0)  # needed to link, never called


def _libraries() -> list[str]:
    """OpenMP runtimes in this process, torch's own first."""
    try:
        loaded = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    found = re.findall(r"(/\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so[^/\s]*)$", loaded, re.MULTILINE)
    return sorted(set(found), key=lambda path: ("torch" not in path, path))


_TEAM, _addresses = _openmp()
for _name, _address in _addresses.items():
    llvmlite.binding.add_symbol(f"qact_{_name}", _address)
_thread_num = types.ExternalFunction("qact_omp_get_thread_num", types.int32())
_num_threads = types.ExternalFunction("qact_omp_get_num_threads", types.int32())


@jit
def share(frame, channels):  # type: ignore[no-untyped-def]
    """This thread's channels: whole cache lines of 16, where there are enough of them."""
    thread, threads = frame[0], frame[1]
    if threads == 0:
        thread, threads = np.int64(_thread_num()), np.int64(_num_threads())
    unit = 16 if channels >= 32 * threads else 1
    first = unit * ((channels * thread) // (threads * unit))
    last = unit * ((channels * (thread + 1)) // (threads * unit))
    return first, channels if thread + 1 == threads else last


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="qact")


# A forked process has the pool's queue, but none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
