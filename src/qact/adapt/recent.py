"""Which samples a memory keeps: the latest of each predicted class, sound ones, of one domain."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.adapt.shrinkage import by_sample, correlation, drift, normal_distance, share


def latest(labels: Tensor, classes: int, capacity: int) -> Tensor:
    """Which labels (N,), in order of arrival, are among the last ``capacity / classes`` of theirs.

    At least one of each class, and ``capacity`` in all.

    >>> latest(torch.tensor([0, 1, 0, 0]), 2, 4).tolist()
    [False, True, True, True]
    """
    same = torch.nn.functional.one_hot(labels, classes)
    later = (same.flip(0).cumsum(0).flip(0) * same).sum(1)  # 1 for the last of its class
    kept = later <= max(1, capacity // classes)
    return kept & (kept.flip(0).cumsum(0).flip(0) <= capacity)


def worth(x: Tensor, last: Tensor | None) -> Tensor:
    """Which samples (N,) may be learnt from: not one value throughout, not the last one again."""
    flat = x.flatten(1)
    varied = (flat.amax(1) > flat.amin(1)) | (flat.shape[1] == 1)
    before = torch.cat([x[:1] if last is None else last, x[:-1]])
    again = (x == before).flatten(1).all(1)
    if last is None:
        again[0] = False
    return varied & ~again


def another_domain(old: Tensor, new: Tensor, size: float, caution: float) -> bool:
    """Whether the new samples would be followed from the old ones by more than half.

    Judged by the mean and variance of each input channel, before any layer: the share of
    :mod:`qact.adapt.shrinkage`, with the old samples in the place of the source.

    Args:
        old: samples (N, C, ...).
        new: samples (M, C, ...).
        size: effective size of the comparison, ``1 / (1 / n_old + 1 / n_new)``.
        caution: how many times the expected error counts.

    >>> old, new = torch.randn(64, 3, 8, 8), torch.randn(64, 3, 8, 8)
    >>> another_domain(old, new, 32.0, 3.0), another_domain(old, new + 1, 32.0, 3.0)
    (False, True)
    """
    old, new = by_channel(old), by_channel(new)
    (variance_0, mean_0), (variance, mean) = (
        torch.var_mean(z, (0, 2), correction=0) for z in (old, new)
    )
    apart = normal_distance(mean - mean_0, variance_0, variance)
    rho = correlation(by_sample(new, len(new)), variance)
    return share(drift(apart, variance_0, variance), rho, size, caution) > 0.5


def by_channel(x: Tensor) -> Tensor:
    """Samples (N, C, ...) as floating (N, C, inner); (N,) has one channel."""
    x = x if x.is_floating_point() else x.float()
    return x.reshape(len(x), x.shape[1] if x.dim() > 1 else 1, -1)
