"""The norms around the quantile, with the statistics of all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qact.nn.distributed.exchange import joined_group
from qact.nn.distributed.statistics import moments
from qact.nn.normed import ChannelNorm
from qact.rank.layout import fold, unfold


class SyncChannelNorm(ChannelNorm):
    """:class:`qact.nn.normed.ChannelNorm` whose training batch is that of all processes.

    Unlike :class:`torch.nn.SyncBatchNorm` it runs on a CPU too, with the channels at any ``dim``.
    """

    same_in_eval = True
    process_group: Any = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``; in training with the mean and variance over all processes."""
        group = joined_group(self.process_group) if self.training else None
        if group is None:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            z = fold(input, self.dim)
            wide = z if z.dtype == torch.float64 else z.float()
            mean, std, count = moments(wide, group)
            variance = std**2
            with torch.no_grad():
                self.follow(mean, variance, int(count[0]))
            scale, shift = (variance + self.eps).rsqrt(), torch.zeros_like(mean)
            if self.affine:
                scale, shift = scale * self.weight.to(wide.dtype), self.bias.to(wide.dtype)
            output = torch.addcmul(shift[:, None], wide - mean[:, None], scale[:, None])
            return unfold(output.to(z.dtype), input, self.dim)
