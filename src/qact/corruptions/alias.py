"""Tables of Poisson distributions for the alias method (Walker 1977)."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def alias_tables(rate: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tables of Poisson(level / 255 * rate) for each level, int32.

    Thresholds and aliases lie side by side, (256, width, 2); first counts (256,).
    """
    mean = torch.arange(256, dtype=torch.float64) / 255 * rate
    reach = 8 * mean.sqrt() + 10
    start = (mean - reach).floor().clamp(min=0)
    width = 1 << (int((mean + reach - start).max()) + 1).bit_length()
    count = start[:, None] + torch.arange(width, dtype=torch.float64)
    log = torch.special.xlogy(count, mean[:, None]) - mean[:, None] - torch.lgamma(count + 1)
    keep, jump = _alias(log.exp() / log.exp().sum(1, keepdim=True) * width)
    whole = 1 << (33 - width.bit_length())
    threshold = (keep * whole).round().int()
    away = jump - torch.arange(width)  # as a difference: added to the cell, or not
    return torch.stack([threshold, away.int()], 2).to(device), start.int().to(device)


def _alias(mass: Tensor) -> tuple[Tensor, Tensor]:
    """Alias method for every row of ``mass`` (mean 1): fill the poorest cell from the richest."""
    rows = torch.arange(len(mass))
    keep, jump = torch.ones_like(mass), torch.arange(mass.shape[1]).repeat(len(mass), 1)
    low, high = mass.clone(), mass.clone()  # finished cells are +inf in one and -inf in the other
    for _ in range(mass.shape[1] - 1):
        poor, rich = low.argmin(1), high.argmax(1)
        share = low[rows, poor].clamp(max=1)
        keep[rows, poor], jump[rows, poor] = share, rich
        high[rows, rich] += share - 1
        low[rows, rich] = high[rows, rich]
        low[rows, poor], high[rows, poor] = torch.inf, -torch.inf
    return keep, jump
