"""Large outputs in large pages: else a system maps and clears each 4 KiB of them by itself.

Memory of tensors from some 32 MiB on is handed back when they go, so every pass finds it new. To
have 33 MB mapped takes as long as to write them several times.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import torch
from torch import Tensor

LEAST, PAGE = 1 << 25, 1 << 21


def empty_like(tensor: Tensor) -> Tensor:
    """Memory for as much, where Linux is asked to use pages of 2 MiB if that is worth it."""
    out = torch.empty_like(tensor)
    if out.nbytes >= LEAST and _ADVISE is not None:
        start = -(-out.data_ptr() // PAGE) * PAGE
        size = (out.data_ptr() + out.nbytes - start) // PAGE * PAGE
        _ADVISE(start, size, mmap.MADV_HUGEPAGE)  # advice: where it is not taken all is as it was
    return out


def _advise() -> Any:
    """``madvise`` of the C library, or None where no pages are large."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes, advise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return advise


_ADVISE = _advise()
