"""The published formulation of QAct, written out plainly: sort, search, density of a sample.

As arXiv 2405.11573v1, Algorithms 1 and 2, and its public code have it: BatchNorm; 100 quantiles of
the weighted batch with +-100 appended; the level of the highest quantile that a value reaches; for
the backward pass a Gaussian kernel density, h = 0.5, of 1000 values drawn at random, taken at the
quantiles; BatchNorm. A rival for `speed.py`, not a definition: see `qact.kernels.reference`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LEVELS, SAMPLE, BANDWIDTH, BOUND = 100, 1000, 0.5, 100.0


class Quantile(torch.autograd.Function):
    """(C, n) to the levels that its values reach."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        tau = torch.arange(1, LEVELS + 1, device=z.device, dtype=z.dtype) / (LEVELS + 1)
        ends = z.new_tensor([-BOUND, BOUND]).expand(z.shape[0], 2)
        context = torch.cat([z, ends], 1)
        positive = context >= 0
        n_positive = positive.sum(1, keepdim=True)
        n_negative = context.shape[1] - n_positive
        weight = torch.where(positive, 0.5 / n_positive, 0.5 / n_negative)
        ordered, order = context.sort(1)
        share = weight.gather(1, order).cumsum(1)
        index = torch.searchsorted(share, tau.expand(z.shape[0], -1).contiguous())
        quantiles = ordered.gather(1, index.clamp_max(context.shape[1] - 1))
        reached = torch.searchsorted(quantiles, z.contiguous(), right=True)
        drawn = torch.multinomial(weight, SAMPLE, replacement=True)
        sample = context.gather(1, drawn)
        gap = (quantiles[:, None, :] - sample[:, :, None]) / BANDWIDTH
        density = torch.exp(-0.5 * gap.square()).mean(1) / (BANDWIDTH * (2 * torch.pi) ** 0.5)
        ctx.save_for_backward(density, reached)
        return reached.to(z.dtype) / (LEVELS + 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        density, reached = ctx.saved_tensors
        return grad * density.gather(1, (reached - 1).clamp_min(0))


class Published(nn.Module):
    """BatchNorm, quantile, BatchNorm, for channels at dimension 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        folded = x.flatten(2) if x.dim() > 2 else x[:, :, None]
        z = self.norm_in(folded)
        rows = z.transpose(0, 1).flatten(1)
        levels = Quantile.apply(rows).reshape(z.shape[1], z.shape[0], -1).transpose(0, 1)
        return self.norm_out(levels).reshape(x.shape)
