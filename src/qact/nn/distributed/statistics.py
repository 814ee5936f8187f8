"""Extent, mean and spread of a batch that is divided among processes.

Each sends five numbers per channel; the mean and the variance of the union follow from those of the
parts (Chan, Golub, LeVeque 1979). A process without samples sends zeros and counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qact.first_order import applied
from qact.kernels import engines
from qact.kernels.own_batch import no_jvp, once
from qact.nn.distributed.exchange import rows, summed
from qact.rank.moments import union


@dataclass(frozen=True)
class Statistics:
    """Of all processes' values together, float64, each (C,)."""

    count: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor


def statistics(z: Tensor, group: Any, engine: str | None = None) -> Statistics:
    """Return the statistics of ``z`` (N, C, L) over all processes, by one exchange."""
    n = float(z.shape[0] * z.shape[2])
    if n:
        local = [t.double() for t in engines.passes(engine, z).statistics(z)]
    else:
        far = torch.full((z.shape[1],), torch.inf, dtype=torch.float64, device=z.device)
        local = [far, -far, torch.zeros_like(far), torch.zeros_like(far)]
    gathered = rows(torch.stack([torch.full_like(local[0], n), *local]), group)
    counts, low, high, mean, std = gathered.unbind(1)
    count = counts.cumsum(0)
    if not bool((count[-1] > 0).all()):
        raise ValueError("no process has a sample; an empty batch has no ranks")
    shares = counts / count.clamp_min(1)  # of each process among those up to it
    joint = mean[0], std[0] ** 2
    for part in zip(mean[1:], std[1:] ** 2, shares[1:], strict=True):
        joint = union(joint, part[:2], part[2])
    return Statistics(count[-1], low.amin(0), high.amax(0), joint[0], joint[1].sqrt())


def moments(z: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and population standard deviation over all processes, and how many values, (C,)."""
    found: tuple[Tensor, Tensor, Tensor] = applied(_Moments, no_jvp, z, group)
    return found


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, group: Any) -> tuple[Tensor, Tensor, Tensor]:
        joint = statistics(z, group)
        mean, std = joint.mean.to(z.dtype), joint.std.to(z.dtype)
        ctx.group = group
        ctx.save_for_backward(z, mean, std, joint.count)
        ctx.mark_non_differentiable(joint.count)
        return mean, std, joint.count

    @staticmethod
    @once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = summed(torch.stack(grads[:2]), ctx.group)
        return slope(*ctx.saved_tensors, *total), None


def slope(
    z: Tensor, mean: Tensor, std: Tensor, count: Tensor, grad_mean: Tensor, grad_std: Tensor
) -> Tensor:
    """``dL/dz`` (N, C, L) of what depends on the joint mean and spread (C,)."""
    count = count.to(z.dtype)
    score = (z - mean[:, None]) * torch.where(std > 0, 1 / std, 0)[:, None]
    along = (grad_std / count)[:, None]
    return torch.addcmul((grad_mean / count)[:, None], score, along)
