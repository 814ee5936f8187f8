"""Platt scaling, one class against the rest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from qact.calibration.calibrator import Calibrator, log_odds, row_normalised
from qact.calibration.minimize import minimize
from qact.calibration.registry import register


@register("platt", paper="Platt 1999")
class PlattScaling(Calibrator):
    """Fit ``sigmoid(a_c s_c + b_c)`` per class, divided by their sum.

    ``s_c`` are the log-odds of the softmax. Platt 1999, "Probabilistic outputs for support vector
    machines", with his targets: ``(N+ + 1) / (N+ + 2)`` for the ``N+`` samples of the class and
    ``1 / (N- + 2)`` for the ``N-`` others. They are what keeps ``a`` and ``b`` finite on separable
    samples and on a class that is missing. With two classes the two fits mirror each other and the
    sum is 1. The order of classes may change.

    Attributes:
        weight: ``a`` (C,).
        bias: ``b`` (C,).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]]).repeat(1000, 1)
        >>> labels = torch.arange(1000) // 600
        >>> PlattScaling().fit(logits, labels).predict(logits[0]).round(decimals=2)
        tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    weight: Tensor
    bias: Tensor

    def _numbers(self, classes: int) -> int:
        return 2 * classes

    def _fit(self, z: Tensor, y: Tensor) -> None:
        s = log_odds(z)
        # In units of its own, about its own mean, no score is far from zero, large or small.
        self._mean = s.mean(0)
        self._scale = (s - self._mean).square().mean(0).sqrt()
        self._scale[self._scale == 0] = 1.0
        t = (s - self._mean) / self._scale
        truth = torch.nn.functional.one_hot(y, z.shape[1]).to(z.dtype)
        positive = truth.sum(0)
        high, low = (positive + 1) / (positive + 2), 1 / (len(z) - positive + 2)
        target = truth * high + (1 - truth) * low

        def loss(values: Tensor) -> Tensor:
            scores = values[0] * t + values[1]
            return binary_cross_entropy_with_logits(scores, target, reduction="none").sum(1).mean()

        start = torch.stack([torch.ones_like(z[0]), torch.zeros_like(z[0])])
        self._slope, self._level = minimize(loss, start)
        self.weight = self._slope / self._scale
        self.bias = self._level - self.weight * self._mean

    def _predict(self, z: Tensor) -> Tensor:
        # Not weight * s + bias: far from zero the two would cancel each other's digits.
        t = (log_odds(z) - self._mean) / self._scale
        return row_normalised((self._slope * t + self._level).sigmoid())
