"""Step ranks ``F(z) = F_low + sum_i w_i 1[z_i <= z]``, with ties in full.

A batch in its own context is sorted: no histogram can place ties and heavy tails within 1/400. A
stored context answers with a step at the mean of each bin, so it errs by up to half a bin's mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.histogram import Histogram
from qact.kernels.passes import PARTS, flat, locate
from qact.kernels.tables import bin_weights
from qact.rule import Rule


def stored_rank(z: Tensor, histogram: Histogram, rule: Rule) -> Tensor:
    """``F(z)``, ties in full: a bin counts from the mean of what fell into it."""
    scale, low = bin_weights(histogram, rule)
    weight = histogram.mass * scale
    before = torch.nn.functional.pad(weight.cumsum(1), (1, 0)) + low[:, None]
    mean = histogram.moment * PARTS / histogram.mass.clamp_min(1e-30)
    cell, place = locate(z, histogram.grid)
    index = flat(cell, histogram.grid.bins)
    # Places are whole 256ths; the mean of equal ones is that number up to rounding.
    reached = (place * PARTS).round() >= mean.flatten()[index] - 1e-3
    below = before[:, :-1].flatten()[index]
    rank = below + torch.where(reached, weight.flatten()[index], 0)
    # Beyond the last edge everything is below.
    return torch.where(place >= 1, before[:, 1:].flatten()[index], rank)


def own_rank(z: Tensor, rule: Rule) -> Tensor:
    """The step rank of a batch in its own context: its place when sorted, ties at their end."""
    values = z.detach().transpose(0, 1).flatten(1)
    ordered, place = values.sort(dim=1)
    n = values.shape[1]
    last = torch.arange(1, n + 1, device=z.device).expand_as(ordered).clone()
    last[:, :-1][ordered[:, 1:] == ordered[:, :-1]] = n
    last = last.flip(1).cummin(1).values.flip(1)
    upto = torch.empty_like(last).scatter_(1, place, last).to(z.dtype)
    if rule.grounded:
        below = (values < 0).sum(1, keepdim=True).to(z.dtype)
        left, right = below + rule.sentinels, n - below + rule.sentinels
        rank = torch.where(
            values < 0,
            0.5 * (upto + rule.sentinels) / left.clamp_min(1),
            0.5 + 0.5 * (upto - below) / right.clamp_min(1),
        )
    else:
        rank = upto / n
    rank = torch.where(torch.isfinite(values).all(1, keepdim=True), rank, torch.nan)
    return rank.reshape(-1, z.shape[0], z.shape[2]).transpose(0, 1)
