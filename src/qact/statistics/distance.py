"""How far two contexts are apart, channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.context import Context

_LEVELS = 199  # quantiles of each context at which the two are compared


def kolmogorov(a: Context, b: Context) -> Tensor:
    """Return ``max_z |F_a(z) - F_b(z)|`` per channel (C,), in [0, 1].

    ``F`` is the plain rank, the distribution function of the context: the Kolmogorov-Smirnov
    statistic, read at the quantiles of both. No increasing map of a channel changes it.

    Raises:
        ValueError: the contexts have different channels. RuntimeError: one has seen no data.

    Example:
        >>> a, b = Context(1).add(torch.rand(4000, 1)), Context(1).add(torch.rand(4000, 1) + 0.5)
        >>> round(kolmogorov(a, b).item(), 1)
        0.5
    """
    at = torch.cat(_quantiles(a, b), 1).T  # (points, channels)
    ranks = [context.cdf(at) for context in (a, b)]
    return (ranks[0] - ranks[1]).abs().amax(0)


def wasserstein(a: Context, b: Context) -> Tensor:
    """Return ``W_1 = int_0^1 |Q_a(u) - Q_b(u)| du`` per channel (C,), in units of the input.

    Raises:
        ValueError: the contexts have different channels. RuntimeError: one has seen no data.

    Example:
        >>> a, b = Context(1).add(torch.rand(4000, 1)), Context(1).add(torch.rand(4000, 1) + 0.5)
        >>> round(wasserstein(a, b).item(), 1)
        0.5
    """
    ours, theirs = _quantiles(a, b)
    return (ours - theirs).abs().mean(1)


def p_value(ks: Tensor, count: Tensor) -> Tensor:
    """How often ``count`` independent values of a known distribution are as far from it in KS.

    ``2 sum_j (-1)^(j-1) exp(-2 j^2 t^2)`` at ``t = (sqrt(n) + 0.12 + 0.11 / sqrt(n)) ks``
    (Kolmogorov 1933; the correction for small ``n`` is Stephens' of 1970).

    Args:
        ks: statistics, any shape.
        count: how many values, broadcast to it.

    Example:
        >>> p_value(torch.tensor([0.1, 0.2]), torch.tensor([100.0, 100.0]))
        tensor([0.2562, 0.0005], dtype=torch.float64)
    """
    root = count.double().sqrt()
    scaled = (root + 0.12 + 0.11 / root) * ks.double()
    index = torch.arange(1, 101, dtype=torch.float64, device=ks.device)
    terms = torch.exp(-2 * (index * scaled[..., None]) ** 2) * (1 - 2 * ((index + 1) % 2))
    # The series needs more terms than these where it is one to fifteen digits.
    return torch.where(scaled < 0.1, 1.0, (2 * terms.sum(-1)).clamp(0, 1))


def _quantiles(a: Context, b: Context) -> list[Tensor]:
    """Both contexts at the midpoints of equal steps of probability, each (C, levels)."""
    if a.num_features != b.num_features:
        raise ValueError(f"contexts have {a.num_features} and {b.num_features} channels")
    steps = torch.arange(_LEVELS, dtype=torch.float64, device=a.mass.device)
    return [context.quantile((steps.to(context.mass.device) + 0.5) / _LEVELS) for context in (a, b)]
