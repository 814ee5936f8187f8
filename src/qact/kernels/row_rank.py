"""Ranks of scores within their rows, as an operator of ``torch.library`` without a gradient."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor
from torch.library import custom_op

from qact.kernels import engines

# Comparing all pairs, many at a time, is faster than a sort up to here.
LONGEST = 1024


@custom_op("qact::row_rank", mutates_args=())
def row_rank(z: Tensor) -> Tensor:
    """``#{z_j < z_i} + #{z_j = z_i}/2`` along the last dimension, in the dtype of ``z``."""
    z, fits = z.contiguous(), z.device.type == "cpu" and z.numel() > 0
    if fits and z.shape[-1] <= LONGEST and engines.fused(None, z):
        kernel = import_module("qact.kernels.cpu.row_rank")
        return kernel.row_rank(z.view(-1, z.shape[-1])).view_as(z)
    return by_sorting(z)


@row_rank.register_fake
def _(z: Tensor) -> Tensor:
    return z.new_empty(z.shape)


def by_sorting(z: Tensor) -> Tensor:
    """The same by a sort and two searches."""
    ordered = z.sort(-1).values
    below, upto = (torch.searchsorted(ordered, z, right=right) for right in (False, True))
    return (below + upto).to(z.dtype) / 2


def by_pairs(z: Tensor) -> Tensor:
    """The same by comparing all pairs at once, in operations that every runtime has."""
    one, other = z[..., :, None], z[..., None, :]
    return ((other < one).sum(-1) + (other <= one).sum(-1)).to(z.dtype) / 2
