"""The definition: exact ranks (empirical CDF and kernel estimate), by sorting and sums over pairs.

For values ``s_j`` with masses ``m_j`` the weights are ``w_j = m_j / (2 (n± + k))`` on the side of
zero that ``s_j`` is on (``grounded``; ``k`` sentinels a side) or ``m_j / n``. Then

    F(z)   = F_low + sum_j w_j 1[s_j <= z]              (step)
    F_h(z) = F_low + sum_j w_j Phi((z - s_j) / h)       (smooth)

where ``F_low`` is the mass at minus infinity: what the negative side lacks of its half. The
continuous grounded rank is made of the ungrounded smooth one (:func:`qact.rank.rule.side_slopes`).
Slow, and meant to be: every engine is tested against this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qact._compat import replace
from qact.rank.grid import EARLY, PARTS
from qact.rank.histogram import Histogram, varied
from qact.rank.levels import Level
from qact.rank.rule import Rule, side_slopes


@dataclass(frozen=True)
class Sample:
    """A context as values and masses (C, M), with the spread (C,) that scales the bandwidth.

    A step stands ``early`` (C, M) before its value: places in bins are rounded, and the mean of
    equal values must not lie beyond them.
    """

    values: Tensor
    mass: Tensor
    std: Tensor
    early: Tensor

    @property
    def count(self) -> Tensor:
        """Total mass per channel (C,)."""
        return self.mass.sum(1)

    @property
    def mean(self) -> Tensor:
        """Mean per channel (C,)."""
        return (self.values * self.mass).sum(1) / self.count.clamp_min(1e-300)


def observe(z: Tensor) -> Sample:
    """The context of a batch (N, C, L): every value, with mass one."""
    values = z.transpose(0, 1).flatten(1).double()
    spread = values.std(1, correction=0) if values.shape[1] > 1 else values.sum(1) * 0
    return Sample(values, torch.ones_like(values), spread, torch.zeros_like(values))


def recall(histogram: Histogram) -> Sample:
    """A stored context: each bin's mass at the mean of what fell into it."""
    width = histogram.grid.width(torch.float64)[:, None]
    index = torch.arange(histogram.grid.bins, device=width.device) + histogram.grid.offset[:, None]
    mass = histogram.mass.double()
    place = histogram.moment.double() / mass.clamp_min(1e-300)
    # Negative values may average to their bin's upper edge, which is not negative: stay below.
    values = torch.where(
        index < 0, ((index + place) * width).clamp_max(-1e-300), (index + place) * width
    )
    early = EARLY / PARTS * width.expand_as(values)
    # Of values above zero the step stays there: the rank of zero is that of the negative ones.
    early = torch.where(values > 0, early.minimum(values * (1 - 1e-9)), early)
    return Sample(values, mass, histogram.std.double(), early)


def join(a: Sample, b: Sample) -> Sample:
    """Both contexts together."""
    total = (a.count + b.count).clamp_min(1e-300)
    mean = ((a.values * a.mass).sum(1) + (b.values * b.mass).sum(1)) / total
    spread = (_moment(a, mean) + _moment(b, mean)) / total
    parts = ((a.values, b.values), (a.mass, b.mass), (a.early, b.early))
    values, mass, early = (torch.cat(pair, 1) for pair in parts)
    return Sample(values, mass, spread.sqrt(), early)


def rank(z: Tensor, sample: Sample, rule: Rule) -> Tensor:
    """Ranks (C, Q) of the queries ``z`` (C, Q) in ``sample``, differentiable by autograd."""
    if rule.gradient == "density":
        sample = replace(sample, values=sample.values.detach(), std=sample.std.detach())
    if rule.smooth:
        return _smooth(z, sample, rule)
    step = _step(z, sample, *weights(sample, rule))
    if not (z.requires_grad or sample.values.requires_grad):
        return step
    twin = _smooth(z, sample, rule)
    return twin + (step - twin).detach()


def density(z: Tensor, sample: Sample, rule: Rule) -> Tensor:
    """``f_h(z) = sum_j w_j phi((z - s_j) / h) / h``, the rank's slope, at ``z`` (C, Q)."""
    weight, _ = weights(sample, rule)
    h = _width(sample, rule)
    scaled = (z[:, :, None] - sample.values[:, None, :]) / h
    kernel = torch.exp(-0.5 * scaled**2) / (h * (2 * torch.pi) ** 0.5)
    slope = (weight[:, None, :] * kernel).sum(-1)
    if rule.grounded != "continuous":
        return slope
    at_zero = _kernel_sum(torch.zeros_like(z[:, :1]), sample, rule)
    return slope * side_slopes(at_zero, z < 0, sample.count[:, None], rule.sentinels)


def apply(z: Tensor, sample: Sample, level: Level, rule: Rule) -> Tensor:
    """The activation of ``z`` (N, C, L) in the context ``sample``: level of rank."""
    n, channels, length = z.shape
    queries = z.transpose(0, 1).flatten(1).double()
    value = level(rank(queries, sample, rule), sample.count.double()[:, None])
    return value.reshape(channels, n, length).transpose(0, 1).to(z.dtype).contiguous()


def weights(sample: Sample, rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the weight of each value (C, M), and the mass at minus infinity (C,)."""
    if rule.grounded != "sides":
        weight = sample.mass / sample.count.clamp_min(1e-300)[:, None]
        return weight, torch.zeros_like(sample.std)
    below = sample.values < 0
    negative = (sample.mass * below).sum(1) + rule.sentinels
    positive = (sample.mass * ~below).sum(1) + rule.sentinels
    half = torch.where(below, negative[:, None], positive[:, None]).clamp_min(1e-300)
    weight = 0.5 * sample.mass / half
    return weight, 0.5 - (weight * below).sum(1)


def _smooth(z: Tensor, sample: Sample, rule: Rule) -> Tensor:
    """``F_h`` by its definition; a constant channel passes no gradient."""
    rank = _kernel_sum(z, sample, rule)
    if rule.grounded != "continuous":
        return rank
    at_zero = _kernel_sum(torch.zeros_like(z[:, :1]), sample, rule)
    slope = side_slopes(at_zero, z < 0, sample.count[:, None], rule.sentinels)
    return 0.5 + slope * (rank - at_zero)


def _kernel_sum(z: Tensor, sample: Sample, rule: Rule) -> Tensor:
    """``F_low + sum_j w_j Phi((z - s_j) / h)``."""
    weight, low = weights(sample, rule)
    gap = z[:, :, None] - sample.values[:, None, :]
    alive = varied(sample.mean, sample.std) | (rule.bandwidth.relative == 0)
    gap = torch.where(alive[:, None, None], gap, gap.detach())
    terms = weight[:, None, :] * torch.special.ndtr(gap / _width(sample, rule))
    return low[:, None] + terms.sum(-1)


def _width(sample: Sample, rule: Rule) -> Tensor:
    return rule.bandwidth.width(sample.std, sample.count).clamp_min(1e-300)[:, None, None]


def _step(z: Tensor, sample: Sample, weight: Tensor, low: Tensor) -> Tensor:
    """``F_low + sum_j w_j 1[s_j <= z]``: ties count in full."""
    steps = sample.values.detach() - sample.early
    order = steps.argsort(dim=1, stable=True)
    values = steps.gather(1, order)
    total = torch.nn.functional.pad(weight.gather(1, order).cumsum(1), (1, 0))
    return low[:, None] + total.gather(
        1, torch.searchsorted(values, z.detach().contiguous(), right=True)
    )


def _moment(sample: Sample, mean: Tensor) -> Tensor:
    return (sample.mass * (sample.values - mean[:, None]) ** 2).sum(1)
