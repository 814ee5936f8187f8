"""The running mean and variance of a BatchNorm: read, stored, and normalised by.

They say of its inputs what the context of a :class:`qact.QAct` says of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qact.rank.layout import fold, unfold
from qact.rank.moments import Moments


def folded(norm: Any, input: Tensor) -> Tensor:
    """The input of ``norm`` as (N, C, L), in float32 at least."""
    z = fold(input, getattr(norm, "dim", 1))
    return z if z.dtype == torch.float64 else z.float()


def running(norm: Any, like: Tensor) -> Moments:
    """What ``norm`` has stored, in the dtype of ``like``."""
    return norm.running_mean.to(like.dtype), norm.running_var.to(like.dtype)


@torch.no_grad()
def store(norm: Any, new: Moments) -> None:
    """Let ``norm`` store ``new``, in the channels where both are finite."""
    sound = torch.isfinite(new[0]) & torch.isfinite(new[1])
    for buffer, value in zip((norm.running_mean, norm.running_var), new, strict=True):
        buffer.copy_(torch.where(sound, value.to(buffer.dtype), buffer))


def standardised(norm: Any, input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """``(z - mean) / sqrt(variance + eps)``, with the statistics of ``input``'s channels (C,)."""
    z = (folded(norm, input) - mean[:, None]) * (variance[:, None] + norm.eps).rsqrt()
    return unfold(z.to(input.dtype), input, getattr(norm, "dim", 1))
