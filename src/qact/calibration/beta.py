"""Beta calibration, one class against the rest."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from qact.calibration.calibrator import Calibrator, log_odds, row_normalised
from qact.calibration.minimize import minimize
from qact.calibration.registry import register


@register("beta", paper="Kull, Silva Filho and Flach 2017 (AISTATS), eq. 4")
class BetaCalibration(Calibrator):
    """Fit ``sigmoid(a_c ln p_c - b_c ln(1 - p_c) + c_c)`` per class, divided by their sum.

    The map of two Beta densities with ``a, b > 0``; ``a = b = 1, c = 0`` changes nothing, which
    Platt's sigmoid of probabilities cannot say. Targets are Platt's, and ``ln a``, ``ln b`` have a
    unit Gaussian prior on the sum over samples: both keep a fit on few samples finite. With two
    classes the fits mirror each other.

    Attributes:
        slopes: ``a`` and ``b``, (2, C).
        bias: ``c`` (C,).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]]).repeat(1000, 1)
        >>> labels = torch.arange(1000) // 600
        >>> BetaCalibration().fit(logits, labels).predict(logits[0]).round(decimals=2)
        tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    slopes: Tensor
    bias: Tensor

    def _numbers(self, classes: int) -> int:
        return 3 * classes

    def _fit(self, z: Tensor, y: Tensor) -> None:
        low, high = _log_pair(z)
        truth = one_hot(y, z.shape[1]).to(z.dtype)
        positive = truth.sum(0)
        most, least = (positive + 1) / (positive + 2), 1 / (len(z) - positive + 2)
        target = truth * most + (1 - truth) * least

        def loss(values: Tensor) -> Tensor:
            scores = values[0].exp() * low - values[1].exp() * high + values[2]
            fit = binary_cross_entropy_with_logits(scores, target, reduction="none").sum(1).mean()
            return fit + values[:2].square().sum() / (2 * len(z))

        found = minimize(loss, z.new_zeros(3, z.shape[1]))
        self.slopes, self.bias = found[:2].exp(), found[2]

    def _predict(self, z: Tensor) -> Tensor:
        low, high = _log_pair(z)
        return row_normalised((self.slopes[0] * low - self.slopes[1] * high + self.bias).sigmoid())


def _log_pair(z: Tensor) -> tuple[Tensor, Tensor]:
    """``ln p`` and ``ln(1 - p)`` of the softmax, without forming ``1 - p``."""
    log_p = z.log_softmax(1)
    return log_p, log_p - log_odds(z)
