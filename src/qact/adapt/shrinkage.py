"""How far stored statistics should follow some samples: positive-part James-Stein shrinkage.

A layer has stored the distribution ``p_0`` of its inputs, and ``n`` samples show it another, ``p``.
Their distance ``D^2 = sum_c W_2^2(p_0, p) / sum_c sigma_c^2``, over the channels ``c``, has two
parts: the shift of the domain, which should be followed, and the error of a small sample, above all
of one that has few classes, which should not. The error is known: the mean of samples of which
``n_eff`` are independent varies by ``rho / n_eff``, in units of the values' own variance, if
``rho`` of that lies between samples. James and Stein would follow by ``[1 - rho / (n_eff D^2)]_+``.

But the two errors do not weigh the same. A shift that is left in moves all classes alike; that of
a sample of few classes erases what sets them apart, however far the domain has moved. So the drift
is bounded, ``D^2 / (1 + D^2)`` in the place of ``D^2``, and the error counts ``caution`` times:

    share = [1 - caution (rho / n_eff) (1 + 1 / D^2)]_+

and the layer stores ``(1 - share) p_0 + share p``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qact.adapt.statistics import folded
from qact.context import Context
from qact.functional import passes_for
from qact.histogram import Histogram
from qact.kernels import eager, tables
from qact.layer import QAct
from qact.layout import fold
from qact.moving import moved
from qact.rule import Rule

LEVELS = (torch.arange(64, dtype=torch.float32) + 0.5) / 64  # where two contexts are compared
PLAIN = Rule(grounded=False, smooth=False)


def effective_size(labels: Tensor, classes: int) -> float:
    """``min(n, (C - 1) / (C sum_c s_c^2 - 1))`` for ``n`` labels with the class shares ``s_c``.

    The squared error of a mean that sums over classes with the shares ``s`` instead of ``1 / C`` is
    ``(C sum s^2 - 1) / (C - 1)`` times the variance between classes. For independent labels of
    equally frequent classes that is ``1 / n`` in expectation, for one class it is 1.

    >>> effective_size(torch.arange(20) % 10, 10), effective_size(torch.zeros(20).long(), 10)
    (20.0, 1.0)
    """
    shares = torch.bincount(labels, minlength=classes).double() / len(labels)
    excess = (classes * float((shares**2).sum()) - 1) / max(1, classes - 1)
    return min(float(len(labels)), 1 / max(excess, 1e-12))


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
    ratio = between[sound].sum() / variance[sound].sum().clamp_min(1e-30)
    return min(1.0, round(float(ratio), 6))


def share(drift: float, correlation: float, size: float, caution: float) -> float:
    """``[1 - caution (rho / n_eff) (1 + 1 / D^2)]_+``; no drift, nothing to follow.

    >>> share(1.0, 0.25, 10.0, 2.0), share(1.0, 1.0, 1.0, 2.0)
    (0.9, 0.0)
    """
    if drift <= 0:
        return 0.0
    return max(0.0, 1 - caution * correlation / size * (1 + 1 / drift))


def followers(model: nn.Module) -> list[Follower]:
    """One for each layer that keeps statistics of its inputs, in the order of the model."""
    found: list[Follower] = []
    for module in model.modules():
        if isinstance(module, QAct):
            found.append(ContextFollower(module))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            found.append(MomentFollower(module))
    return found


class Follower(ABC):
    """Base: one layer, and what it had stored at first.

    Args:
        layer: whose statistics follow.
    """

    def __init__(self, layer: Any) -> None:
        self.layer, self.share = layer, 0.0

    @abstractmethod
    def follow(self, input: Tensor, size: float, caution: float) -> float:
        """Store the source and as much of ``input`` as it earns; return its share."""


class MomentFollower(Follower):
    """The mean and variance of a BatchNorm; of normals, W_2^2 = gap^2 + (difference of std)^2."""

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer)
        self.mean = layer.running_mean.clone()  # type: ignore[union-attr]
        self.variance = layer.running_var.clone()  # type: ignore[union-attr]

    def follow(self, input: Tensor, size: float, caution: float) -> float:
        """Moments of the mixture; a channel that is not finite keeps the source."""
        z = folded(self.layer, input) - self.mean[:, None]
        means = by_sample(z, len(input))
        gap = means.mean(0)
        variance = (by_sample(z.square(), len(input)).mean(0) - gap**2).clamp_min(0)
        rho = correlation(means, variance)
        sound = torch.isfinite(variance)
        gap = torch.where(sound, gap, 0)
        variance = torch.where(sound, variance, self.variance)
        apart = gap**2 + (variance.sqrt() - self.variance.sqrt()) ** 2
        drift = float(apart.sum() / self.variance.sum().clamp_min(1e-30))
        s = share(drift, rho, size, caution)
        spread = (1 - s) * self.variance + s * variance + s * (1 - s) * gap**2
        self.layer.running_mean.copy_(self.mean + s * gap)
        self.layer.running_var.copy_(spread)
        return s


class ContextFollower(Follower):
    """The context of a QAct; W_2 compares the quantiles, so that a change of shape counts too."""

    def __init__(self, layer: QAct) -> None:
        super().__init__(layer)
        self.source: Context = layer.context.clone()
        self.quantiles = self.source.quantile(LEVELS)

    def follow(self, input: Tensor, size: float, caution: float) -> float:
        """The mixture of both contexts; a channel that is not finite keeps the source."""
        z = fold(input, self.layer.dim)
        z = z if z.dtype == torch.float64 else z.float()
        seen = eager.observe(z, self.layer.rule, self.source.bins, passes_for(None, z))
        seen = seen.to(self.source.mass.dtype)
        rho = correlation(by_sample(z, len(input)), seen.std**2)
        s = share(self._drift(seen), rho, size, caution)
        if s or self.share:  # a context that is the source's already keeps its table
            self.layer.context.take(self._mixed(seen, s) if s else self.source.histogram)
        self.share = s
        return s

    def _drift(self, seen: Histogram) -> float:
        sound = torch.isfinite(seen.mean)
        found = tables.quantile(seen, LEVELS.to(self.quantiles), PLAIN)
        apart = ((found - self.quantiles)[sound] ** 2).mean(1).sum()
        return float(apart / (self.source.std[sound] ** 2).sum().clamp_min(1e-30))

    def _mixed(self, seen: Histogram, s: float) -> Histogram:
        """Both as one context of the source's mass."""
        stored = self.source.histogram
        seen = seen.scaled(stored.count / seen.count.clamp_min(1e-30))
        return moved(stored, seen, torch.full_like(stored.mean, s))
