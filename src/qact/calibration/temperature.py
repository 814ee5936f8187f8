"""Temperature and vector scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2)."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qact.calibration.calibrator import Calibrator, unit_of
from qact.calibration.minimize import minimize
from qact.calibration.registry import register

# Temperatures in units of the logits' own spread: beyond, no minimum is worth the name.
LOWEST, HIGHEST = 0.01, 100.0


@register("temperature", paper="Guo et al. 2017, arXiv 1706.04599, sec. 4.2")
class TemperatureScaling(Calibrator):
    """Fit ``softmax(z / T)`` with the ``T > 0`` of the least negative log-likelihood.

    The likelihood is convex in ``1/T``; its derivative ``mean(sum_c p_c z_c - z_y)`` is brought to
    zero by bisection, for ``T`` between 0.01 and 100 times the root mean square of the logits
    about their mean over classes. The order of the classes never changes.

    Attributes:
        temperature: the fitted ``T``, in the unit of the logits.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]]).repeat(100, 1)
        >>> labels = torch.arange(100) // 60  # right in 60 of 100 cases
        >>> TemperatureScaling().fit(logits, labels).predict(logits[0])
        tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    temperature: float

    def _numbers(self, classes: int) -> int:
        return 1

    def _fit(self, z: Tensor, y: Tensor) -> None:
        unit = unit_of(z)
        z = (z - z.amax(1, keepdim=True)) / unit
        truth = z.gather(1, y[:, None])[:, 0]

        def slope(log_t: float) -> float:
            return ((z / math.exp(log_t)).softmax(1).mul(z).sum(1) - truth).mean().item()

        low, high = math.log(LOWEST), math.log(HIGHEST)
        if slope(low) <= 0 or slope(high) >= 0:  # the slope in 1/T: falls as T grows
            low = high = low if slope(low) <= 0 else high
            warnings.warn(
                f"the likelihood still improves at temperature {unit * math.exp(low):.4g}, the "
                "bound: predictions are all right, or carry no information",
                stacklevel=4,
            )
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) > 0 else (low, middle)
        self.temperature = unit * math.exp((low + high) / 2)

    def _predict(self, z: Tensor) -> Tensor:
        return (z / self.temperature).softmax(1)


@register("vector", paper="Guo et al. 2017, arXiv 1706.04599, sec. 4.2")
class VectorScaling(Calibrator):
    """Fit ``softmax(w * z + b)``, a scale and a shift per class. The order of classes may change.

    Fitted by likelihood, with a unit Gaussian prior about ``softmax(z / T)``: the penalty is
    ``(|T w - 1|^2 + |b'|^2) / 2`` on the sum over samples, ``b'`` the shift of logits centred class
    by class. So the fit stays finite on separable or few samples, and no unit of the logits
    enters. ``T`` is fitted first, with such a prior on ``ln T`` about the logits' own spread.

    Attributes:
        weight: ``w`` (C,).
        bias: ``b`` (C,).

    Example:
        >>> logits = torch.zeros(300, 2)
        >>> labels = torch.arange(300) // 225
        >>> VectorScaling().fit(logits, labels).predict(logits[0]).round(decimals=2)
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    weight: Tensor
    bias: Tensor

    def _numbers(self, classes: int) -> int:
        return 2 * classes

    def _fit(self, z: Tensor, y: Tensor) -> None:
        self._mean = z.mean(0)
        self._unit = _likely_temperature(z, y)
        # Shifts that all classes share change no softmax: only the differences of means are kept.
        level = (self._mean - self._mean.mean()) / self._unit
        t = (z - self._mean) / self._unit

        def loss(values: Tensor) -> Tensor:
            w, b = values
            prior = ((w - 1).square().sum() + b.square().sum()) / 2
            return cross_entropy(w * t + (level + b), y) + prior / len(z)

        start = torch.stack([torch.ones_like(z[0]), torch.zeros_like(z[0])])
        self._slope, shift = minimize(loss, start)
        self._level = level + shift
        self.weight = self._slope / self._unit
        self.bias = self._level - self.weight * self._mean

    def _predict(self, z: Tensor) -> Tensor:
        # Not weight * z + bias: far from zero the two would cancel each other's digits.
        return (self._slope * ((z - self._mean) / self._unit) + self._level).softmax(1)


def _likely_temperature(z: Tensor, y: Tensor) -> float:
    """Return the temperature of the greatest posterior; see :class:`VectorScaling`."""
    unit = unit_of(z)
    t = (z - z.mean(1, keepdim=True)) / unit

    def loss(log_t: Tensor) -> Tensor:
        return cross_entropy(t / log_t.exp(), y) + log_t.square().sum() / (2 * len(z))

    return unit * float(minimize(loss, z.new_zeros(1)).exp())
