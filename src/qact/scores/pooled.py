"""Quantiles of all channels together: of values, and of a context that holds them apart."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.context import Context


def quantile(values: Tensor, level: float) -> Tensor:
    """The ``level`` quantile of all values, () float; torch's own ends at 2^24 of them.

    The order statistic below and the one above, interpolated as in ``numpy.quantile``.

    Example:
        >>> quantile(torch.tensor([[4.0, 1.0], [2.0, 3.0]]), 0.5)
        tensor(2.5000)
    """
    flat = values.flatten()
    place = level * (len(flat) - 1)
    below = int(place)
    low = flat.kthvalue(below + 1).values
    high = flat.kthvalue(min(below + 2, len(flat))).values
    return low + (place - below) * (high - low)


def pooled_quantile(context: Context, level: float) -> Tensor:
    """The ``level`` quantile of the values of all channels of a context, () float.

    Inverts the mean over channels, weighted by their counts, of the stored distribution functions:
    bisection to neighbouring numbers, since channels may have different units.

    Example:
        >>> context = Context(2).add(torch.arange(200.0).reshape(100, 2))
        >>> bool((pooled_quantile(context, 0.5) - 99.5).abs() < 1)
        True
    """
    ends = context.quantile(context.mean.new_tensor([0.0, level, 1.0]))
    share = (context.count / context.count.sum()).to(context.mean.dtype)
    low, high = ends[:, 1].min(), ends[:, 1].max()  # the pooled one lies between the channels' own
    while True:
        middle = low / 2 + high / 2
        if not bool((low < middle) & (middle < high)):
            return high
        z = middle.expand(1, context.num_features)
        reached = (share * context.cdf(z)[0]).sum() >= level
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
