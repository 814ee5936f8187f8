"""Which samples a memory keeps: the latest of each predicted class, sound ones, of one domain."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.adapt.shrinkage import (
    by_sample,
    class_shares,
    correlation,
    drift,
    effective_size,
    normal_distance,
    share,
)
from qact.vectors import unit_of

CHANGED = 0.8  # share from which samples are of another domain
Part = tuple[Tensor, Tensor]  # samples and labels


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
    """Which samples (N,) may be learnt from: no plain colour throughout, not the last one again.

    A plain colour has one value in each channel (N, C, ...); a row of features (N, C), one in all.

    >>> plain = torch.tensor([1.0, 2.0])[:, None].expand(1, 2, 3)
    >>> worth(plain, None).tolist(), worth(plain[:, :, 0], None).tolist()
    ([False], [True])
    """
    flat = by_channel(x) if x.dim() > 2 else x.reshape(len(x), 1, -1)
    varied = (flat.amax(2) > flat.amin(2)).any(1) | (flat[0].numel() == 1)
    before = torch.cat([x[:1] if last is None else last, x[:-1]])
    again = (x == before).flatten(1).all(1)
    if last is None:
        again[0] = False
    return varied & ~again


def another_domain(old: Part, new: Part, classes: int, caution: float) -> bool:
    """Whether the new samples would be followed from the old ones nearly in full.

    Judged by the mean and variance of each input channel, before any layer, with the share of
    :mod:`qact.adapt.shrinkage`; the old samples stand for the source. Only what lies between
    classes errs by ``1 / n_eff``, the rest by ``1 / n``; the old samples tell how much that is. So
    a new domain is seen even where the model predicts one class for all of it.

    Args:
        old: samples (N, C, ...) and predicted labels (N,).
        new: samples (M, C, ...) and predicted labels (M,).
        classes: how many there are.
        caution: how many times the expected error counts.

    >>> labels = torch.arange(64) % 10
    >>> old, new = torch.randn(64, 3, 8, 8), torch.randn(64, 3, 8, 8)
    >>> another_domain((old, labels), (new, labels), 10, 3.0)
    False
    >>> another_domain((old, labels), (new + 1, 0 * labels), 10, 3.0)
    True
    """
    channels = [by_channel(x) for x, _ in (old, new)]
    means = [by_sample(z, len(z)) for z in channels]
    moments = [torch.var_mean(z, (0, 2), correction=0) for z in channels]
    between, error = class_share(means[0], old[1]), 0.0
    for (_, labels), mean, (variance, _) in zip((old, new), means, moments, strict=True):
        few, many = effective_size(class_shares(labels, classes), len(labels)), len(labels)
        error += correlation(mean, variance) * (between / few + (1 - between) / many)
    variances = moments[0][0], moments[1][0]
    apart = normal_distance(moments[1][1] - moments[0][1], *variances)
    return share(drift(apart, *variances), error, 1.0, caution) > CHANGED


def class_share(means: Tensor, labels: Tensor) -> float:
    """The share of the variance of samples (N, C) that lies between their classes, in [0, 1].

    An analysis of variance, without bias. Unknown for one class: 1.

    >>> class_share(torch.tensor([[0.0], [0.0], [2.0], [2.0]]), torch.tensor([0, 0, 1, 1]))
    1.0
    """
    means = means / unit_of(means)  # a share has no unit
    known, at, counts = labels.unique(return_inverse=True, return_counts=True)
    free = len(labels) - len(known)
    if len(known) < 2 or not free:
        return 1.0
    centres = means.new_zeros(len(known), means.shape[1]).index_add(0, at, means)
    within = (means - (centres / counts[:, None])[at]).square().sum() / free
    return min(1.0, max(0.0, 1 - float(within / means.var(0).sum().clamp_min(1e-30))))


def by_channel(x: Tensor) -> Tensor:
    """Samples (N, C, ...) as floating (N, C, inner); (N,) has one channel."""
    x = x if x.is_floating_point() else x.float()
    return x.reshape(len(x), x.shape[1] if x.dim() > 1 else 1, -1)
