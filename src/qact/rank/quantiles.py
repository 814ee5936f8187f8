"""Order statistics of what was counted: quantiles, exact where single values are known."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.rank.histogram import Histogram
from qact.rank.tails import KEPT


def order_statistics(of: Histogram, levels: Tensor) -> Tensor:
    """Quantiles (C, Q) at ``levels``, float64: single values where the tails know them.

    Else the place in a bin, whose mean has half of the mass on either side: what is alone in its
    bin is found where it is.
    """
    assert of.tails is not None
    tails, mass = of.tails, of.mass.double()
    n, size = mass.sum(1, keepdim=True), tails.shape[1]
    wanted = levels.double() * n
    place = wanted.ceil().clamp_min(1).minimum(n)
    up_to = mass.cumsum(1)
    cell = torch.searchsorted(up_to, wanted.minimum(n)).clamp_max(of.grid.bins - 1)
    inside = mass.gather(1, cell).clamp_min(1.0)
    share = (1 - (up_to.gather(1, cell) - wanted) / inside).clamp(0, 1)
    mean = of.moment.double().gather(1, cell) / inside
    part = torch.where(share < 0.5, 2 * share * mean, mean + (2 * share - 1) * (1 - mean))
    found = (cell + of.grid.offset[:, None] + part) * of.grid.width(torch.float64)[:, None]
    behind = n - place  # how many values are larger
    known = (n <= size) | (place <= KEPT) | (behind < KEPT)
    slot = torch.where((n <= size) | (place <= KEPT), place - 1, size - 1 - behind)
    value = tails.double().gather(1, slot.clamp(0, size - 1).long())
    mixed = torch.where(known & torch.isfinite(value), value, found)
    return mixed.cummax(1).values  # a bin may reach beyond its neighbour's value
