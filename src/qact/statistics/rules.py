"""What a BatchNorm in ``eval()`` normalises by, in the place of what it has stored.

A rule is called with the norm and its input. It gives the moments to normalise by, a pair ``(mean,
variance)`` of (C,); ``(None, None)`` for the batch's own, with their gradient; a tensor shaped like
the input, standardised already; or None for what is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qact.rank.moments import Moments, constant_moments, moments, union
from qact.statistics.batchnorm import folded, running, standardised, store

Rule = Callable[[Any, Tensor], Any]


def stored(norm: Any, input: Tensor) -> None:
    """The running statistics."""


def batch(norm: Any, input: Tensor) -> Moments:
    """Those of the batch, as constants."""
    return constant_moments(folded(norm, input.detach()))


def batch_with_gradient(norm: Any, input: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Those of the batch, with the gradient that flows through them.

    A single value per channel has variance zero, and the norm gives its bias.
    """
    return (None, None) if input.numel() > norm.num_features else batch(norm, input)


@dataclass(frozen=True)
class Mixed:
    """Those of the batch joined to the running ones, which count as ``prior`` samples.

    The union of two sets with the batch's share ``n / (n + prior)`` (Schneider et al. 2020, arXiv
    2006.16971, which mixes variances without the distance of the means). Prior 0 is the batch
    alone, infinity the running statistics alone.
    """

    prior: float

    def __call__(self, norm: Any, input: Tensor) -> Moments:
        """Moments of the union."""
        new = batch(norm, input)
        return union(running(norm, new[0]), new, len(input) / (len(input) + self.prior))


@dataclass(frozen=True)
class Moving:
    """An exponential moving average, ``m <- (1 - rate) m + rate m_b``, kept and normalised by.

    With the gradient of the batch's part: the robust BatchNorm of RoTTA (arXiv 2303.13899,
    equation 5).
    """

    rate: float

    def __call__(self, norm: Any, input: Tensor) -> Tensor:
        """The input, standardised by the moved statistics."""
        new = moments(folded(norm, input))
        pairs = zip(running(norm, new[0]), new, strict=True)
        mean, variance = ((1 - self.rate) * old + self.rate * seen for old, seen in pairs)
        store(norm, (mean, variance))
        return standardised(norm, input, mean, variance)
