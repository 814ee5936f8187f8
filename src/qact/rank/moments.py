"""Mean and variance by channel, of values and of the union of two sets of values.

A pair ``(mean, variance)`` of (C,) has the variance without Bessel's correction, by which
normalisation layers normalise.
"""

from __future__ import annotations

import torch
from torch import Tensor

Moments = tuple[Tensor, Tensor]
BLOCK = 1 << 18  # values that stay in the cache between two passes
FAR = 8.0  # squared distance of a mean from zero, in variances: beyond, differences of squares lose


def moments(z: Tensor) -> Moments:
    """Mean and variance of ``z`` (N, C, L) by channel, differentiable.

    Example:
        >>> moments(torch.tensor([[[0.0], [3.0]], [[2.0], [3.0]]]))
        (tensor([1., 3.]), tensor([1., 0.]))
    """
    variance, mean = torch.var_mean(z, (0, 2), correction=0)
    return mean, variance


@torch.no_grad()
def constant_moments(z: Tensor) -> Moments:
    """:func:`moments` as constants, up to rounding: vectorised sums of values and squares.

    ``var_mean`` updates both value by value, which on a CPU takes twenty to eighty times as long. A
    difference of squares loses digits where the mean is far from zero: those channels are summed
    again, about their mean.

    Example:
        >>> constant_moments(torch.tensor([[[0.0], [3.0]], [[2.0], [3.0]]]))
        (tensor([1., 3.]), tensor([1., 0.]))
    """
    if z.shape[2] == 1 or z.device.type != "cpu" or torch.compiler.is_compiling():
        return _about_mean(z)  # what cannot wait for an answer, or is read in one go anyway
    count = z.shape[0] * z.shape[2]
    total, square = z.new_empty(z.shape[:2]), z.new_empty(z.shape[:2])
    few = max(1, BLOCK // z[0].numel())
    for part, row, root in zip(z.split(few), total.split(few), square.split(few), strict=True):
        torch.sum(part, 2, out=row)
        torch.linalg.vector_norm(part, dim=2, out=root)
    mean = total.sum(0) / count
    variance = square.square_().sum(0) / count - mean.square()
    far = ~(mean.square() <= FAR * variance)  # or not a number
    if bool(far.any()):
        mean[far], variance[far] = _about_mean(z[:, far])
    return mean, variance


def _about_mean(z: Tensor) -> Moments:
    """Mean and variance in two passes, the second over deviations."""
    outer, channels, inner = z.shape
    if inner == 1:  # channels are contiguous: reduced in place of copied
        mean = z.sum((0, 2)) / outer
        return mean, (z - mean[:, None]).square_().sum((0, 2)) / outer
    mean = z.sum(2).sum(0) / (outer * inner)
    square = z.new_empty(outer, channels)
    few = max(1, BLOCK // (channels * inner))
    gap = z.new_empty(min(few, outer), channels, inner)
    for part, row in zip(z.split(few), square.split(few), strict=True):
        apart = torch.sub(part, mean[:, None], out=gap[: len(part)])
        torch.linalg.vector_norm(apart, dim=2, out=row)
    return mean, square.square_().sum(0) / (outer * inner)


def union(old: Moments, new: Moments, share: float | Tensor) -> Moments:
    """Mean and variance of two sets of values together, of which ``new`` has the given share.

    ``m = m_0 + s (m_1 - m_0)`` and ``v = (1 - s) v_0 + s v_1 + s (1 - s) (m_1 - m_0)^2`` (Chan,
    Golub, LeVeque 1979): the distance of the means counts too.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> union((zero, zero), (one, zero), 0.5)
        (tensor([0.5000]), tensor([0.2500]))
    """
    gap = new[0] - old[0]
    variance = (1 - share) * old[1] + share * new[1] + share * (1 - share) * gap**2
    return old[0] + share * gap, variance
