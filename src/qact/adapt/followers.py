"""Layers that follow: a BatchNorm by mean and variance, a QAct by its whole context."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from qact._compat import AnyBatchNorm
from qact.adapt.shrinkage import by_sample, correlation, drift, normal_distance, share
from qact.context import Context
from qact.kernels import eager, tables
from qact.nn.layer import QAct
from qact.rank.histogram import Histogram
from qact.rank.layout import fold
from qact.rank.moments import union
from qact.rank.moving import moved
from qact.rank.rule import Rule
from qact.statistics.batchnorm import folded
from qact.surgery import tapped

LEVELS = (torch.arange(64, dtype=torch.float32) + 0.5) / 64  # where two contexts are compared
PLAIN = Rule(grounded=False, smooth=False)


def followers(model: nn.Module) -> list[Follower]:
    """One for each layer that keeps statistics of its inputs, in the order of the model."""
    found: list[Follower] = []
    for module in model.modules():
        if isinstance(module, QAct):
            found.append(ContextFollower(module))
        elif isinstance(module, AnyBatchNorm) and module.running_mean is not None:
            found.append(MomentFollower(module))
    return found


class Follower(ABC):
    """Base: one layer, and what it had stored at first.

    Args:
        layer: whose statistics follow.
    """

    def __init__(self, layer: Any) -> None:
        self.layer, self.share = layer, 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Follower:
        """A copy for the copied layer; the source never changes, and is shared."""
        twin = memo[id(self)] = copy.copy(self)
        twin.layer = copy.deepcopy(self.layer, memo)
        return twin

    def hearing(self, told: Callable[[Tensor], Any]) -> AbstractContextManager[None]:
        """A block in which ``told`` hears what the layer is given, before it reads anything."""
        return tapped(self.layer, told, "input")

    @abstractmethod
    def follow(self, input: Tensor, size: float, caution: float) -> float:
        """Store the source and as much of ``input`` as it earns; return its share."""

    @abstractmethod
    def restore(self) -> None:
        """Store the source."""


class MomentFollower(Follower):
    """The mean and variance of a BatchNorm; of normals, W_2^2 = gap^2 + (difference of std)^2."""

    def __init__(self, layer: AnyBatchNorm) -> None:
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
        apart = normal_distance(gap, self.variance, variance)
        s = share(drift(apart, self.variance, variance), rho, size, caution)
        gap, spread = union((torch.zeros_like(gap), self.variance), (gap, variance), s)
        self.layer.running_mean.copy_(self.mean + gap)
        self.layer.running_var.copy_(spread)
        return s

    def restore(self) -> None:
        """The source's mean and variance, bit for bit."""
        self.layer.running_mean.copy_(self.mean)
        self.layer.running_var.copy_(self.variance)


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
        seen = eager.observe(z, self.layer.rule, self.source.bins)
        seen = seen.to(self.source.mass.dtype)
        rho = correlation(by_sample(z, len(input)), seen.std**2)
        s = share(self._drift(seen), rho, size, caution)
        if s:
            self.layer.context.take(self._mixed(seen, s))
            self.share = s
        else:
            self.restore()
        return s

    def hearing(self, told: Callable[[Tensor], Any]) -> AbstractContextManager[None]:
        """What it ranks, which a subclass may have made of what it is given."""
        return self.layer.heard(told)

    def restore(self) -> None:
        """The source's context; one that is there already keeps its table."""
        if self.share:
            self.layer.context.take(self.source.histogram)
        self.share = 0.0

    def _drift(self, seen: Histogram) -> float:
        sound = torch.isfinite(seen.mean)
        found = tables.quantile(seen, LEVELS.to(self.quantiles), PLAIN)
        apart = ((found - self.quantiles)[sound] ** 2).mean(1)
        return drift(apart, self.source.std[sound] ** 2, seen.std[sound] ** 2)

    def _mixed(self, seen: Histogram, s: float) -> Histogram:
        """Both as one context of the source's mass."""
        stored = self.source.histogram
        seen = seen.scaled(stored.count / seen.count.clamp_min(1e-30))
        return moved(stored, seen, torch.full_like(stored.mean, s))
