"""Ranks of scores within their rows: every score against all of its row, a vector at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qact.kernels.cpu.frame import opened, pack, plane
from qact.kernels.cpu.jit import Kernel, exact
from qact.kernels.cpu.pool import run, share


def row_rank(z: Tensor) -> Tensor:
    """``#{z_j < z_i} + #{z_j = z_i}/2`` of rows ``z`` (R, n), float32 and contiguous."""
    out = torch.empty_like(z)
    run(_ranks, pack([z, out], []), z.shape[0], z.numel() * z.shape[1])
    return out


@Kernel
def _ranks(data):  # type: ignore[no-untyped-def]
    frame = opened(data)
    z, out = plane(frame, 0, np.float32), plane(frame, 1, np.float32)
    first, last = share(frame, z.shape[0])
    for r in range(first, last):
        for i in range(z.shape[1]):
            out[r, i] = np.float32(0.5) * np.float32(_upto(z[r], z[r, i]))


@exact
def _upto(row, value):  # type: ignore[no-untyped-def]
    """``#{z_j < value} + #{z_j <= value}``."""
    found = np.int32(0)
    for j in range(row.size):
        found += np.int32(row[j] < value) + np.int32(row[j] <= value)
    return found
