"""How far stored statistics should follow some samples: positive-part James-Stein shrinkage.

A layer has stored the distribution ``p_0`` of its inputs, and ``n`` samples show it another, ``p``.
Their distance ``D^2 = sum_c W_2^2(p_0, p) / sum_c sigma_c^2``, over the channels ``c``, has two
parts: the shift of the domain, which should be followed, and the error of a small sample, above all
of one that has few classes, which should not. The error is known: the mean of samples of which
``n_eff`` are independent varies by ``rho / n_eff``, in units of the values' own variance, if
``rho`` of that lies between samples. James and Stein would follow by ``[1 - rho / (n_eff D^2)]_+``.

The unit ``sigma_c^2`` is the mean of both variances. The source's alone would overstate the error
of images that have lost their contrast; the sample's own lacks what lies between the classes that
it has not.

But the two errors do not weigh the same. A shift that is left in moves all classes alike; that of
a sample of few classes erases what sets them apart, however far the domain has moved. So the drift
is bounded, ``D^2 / (1 + D^2)`` in the place of ``D^2``, and the error counts ``caution`` times:

    share = [1 - caution (rho / n_eff) (1 + 1 / D^2)]_+

and the layer stores ``(1 - share) p_0 + share p``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def effective_size(shares: Tensor, count: int) -> float:
    """``min(n, (C - 1) / (C sum_c s_c^2 - 1))`` for ``n`` samples with the class shares ``s`` (C,).

    The squared error of a mean that sums over classes with the shares ``s`` instead of ``1 / C`` is
    ``(C sum s^2 - 1) / (C - 1)`` times the variance between classes. For independent labels of
    equally frequent classes that is ``1 / n`` in expectation, for one class it is 1.

    >>> effective_size(torch.full((10,), 0.1), 20), effective_size(torch.tensor([1.0, 0.0]), 20)
    (20.0, 1.0)
    """
    classes = len(shares)
    excess = (classes * float(shares.double().square().sum()) - 1) / max(1, classes - 1)
    return min(float(count), 1 / max(excess, 1e-12))


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """The share (C,) of each class among the labels (N,), in float64."""
    return torch.bincount(labels, minlength=classes).double() / max(1, len(labels))


def by_sample(z: Tensor, samples: int) -> Tensor:
    """The mean (N, C) of each sample of ``z`` (outer, C, inner).

    Where the first dimension does not hold the samples, all are one.
    """
    samples = 1 if len(z) % samples else samples
    return z.reshape(samples, -1, *z.shape[1:]).mean((1, 3))


def correlation(means: Tensor, variance: Tensor) -> float:
    """The share of the variance (C,) that lies between the means (N, C) of samples, in [0, 1].

    A dense layer has one value per sample, so all of it does. Unknown for one sample: 1.

    >>> x = torch.randn(8, 3)
    >>> correlation(x, x.var(0, correction=0)), correlation(0.5 * x, x.var(0, correction=0))
    (1.0, 0.25)
    """
    if len(means) < 2:
        return 1.0
    between = torch.var(means, 0, correction=0)
    sound = torch.isfinite(between) & torch.isfinite(variance)
    ratio = between[sound].sum() / variance[sound].sum().clamp_min(torch.finfo(variance.dtype).tiny)
    return min(1.0, round(float(ratio), 6))


def share(drift: float, correlation: float, size: float, caution: float) -> float:
    """``[1 - caution (rho / n_eff) (1 + 1 / D^2)]_+``; no drift, nothing to follow.

    >>> share(1.0, 0.25, 10.0, 2.0), share(1.0, 1.0, 1.0, 2.0)
    (0.9, 0.0)
    """
    if drift <= 0:
        return 0.0
    return max(0.0, 1 - caution * correlation / size * (1 + 1 / drift))


def drift(apart: Tensor, one: Tensor, other: Tensor) -> float:
    """``D^2`` of two distributions ``W_2^2 = apart`` from each other, by channel (C,).

    Args:
        apart: the squared distances.
        one: variances of the one.
        other: variances of the other.

    >>> drift(torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([3.0]))
    2.0
    """
    return float(2 * apart.sum() / (one.sum() + other.sum()).clamp_min(torch.finfo(one.dtype).tiny))


def normal_distance(gap: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """``W_2^2 = gap^2 + (sigma - sigma')^2`` of normals with these variances."""
    return gap**2 + (one.sqrt() - other.sqrt()) ** 2
