"""The running context moves towards a batch whose bins have been counted."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.kernels.columns import FINITE, MEAN, OFFSET, PARTS, STD, WIDTH
from qact.rank.grid import Grid
from qact.rank.grid import stored as grid_of
from qact.rank.histogram import Histogram
from qact.rank.moving import moved


def move(context: tuple[Tensor, ...], hist: Tensor, state: Tensor, rate: float) -> None:
    """``(1 - rate) stored + rate batch`` into the buffers of the running ``context``, in place."""
    mass, moment, mean, std, exponent, offset = context
    stored = Histogram(mass, moment, grid_of(exponent, offset, mass.shape[1]), mean, std)
    seen = batch(hist, state).to(mass.dtype)
    new = moved(stored, seen, torch.full_like(mean, rate))
    numbers = (new.mass, new.moment, new.mean, new.std, new.grid.exponent, new.grid.offset)
    for buffer, number in zip(context, numbers, strict=True):
        buffer.copy_(number)


def batch(hist: Tensor, state: Tensor) -> Histogram:
    """The bins (C, BLOCK) as a histogram; their last column counts something else."""
    finite = state[:, FINITE] > 0
    packed = hist.clone()
    packed[:, -1] = 0
    mass = (packed >> 32).double()
    moment = (packed & ((1 << 32) - 1)).double() / PARTS
    width = torch.where(finite, state[:, WIDTH], 1.0)
    offset = torch.where(finite, state[:, OFFSET], 0.0)
    exponent = (torch.frexp(width).exponent - 1).int()
    grid = Grid(exponent, offset.long(), hist.shape[1])
    mean, std = (torch.where(finite, state[:, i], torch.nan) for i in (MEAN, STD))
    return Histogram(mass, moment, grid, mean, std)
