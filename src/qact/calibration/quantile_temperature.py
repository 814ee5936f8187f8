"""Quantile-adaptive temperature: hotter or colder, by where a confidence stands among others.

The idea is that of Chakraborty et al. 2026 (arXiv 2606.21749): the temperature is a monotone
function of the empirical quantile of a prediction's confidence. Only their abstract was at hand;
the family of functions and the fit are ours::

    softmax(z / T(q)),   ln (T(q) / u) = a + b (1 - q)

with ``u`` the spread of the logits (the root mean square about their mean over classes) and ``q``
in [0, 1] the rank of the sample's top log-odds, of ``z / u``, in a context of such values: the
empirical CDF in a :class:`qact.Context`. ``b = 0`` is plain temperature scaling, and the prior
pulls there. No unit of the logits enters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qact import checks
from qact.calibration.calibrator import Calibrator, log_odds, unit_of
from qact.calibration.minimize import minimize
from qact.calibration.registry import register
from qact.calibration.temperature import HIGHEST
from qact.context import Context


@register("quantile_temperature", paper="Chakraborty et al. 2026, arXiv 2606.21749")
class QuantileTemperature(Calibrator):
    """Fit ``softmax(z / (u exp(a + b (1 - q))))``, with ``q`` the quantile of a confidence.

    ``a`` and ``b`` are fitted by likelihood, with a unit Gaussian prior on each, and the
    temperature kept between 0.01 and 100 times ``u``, the spread of the logits. Within a sample the
    order of classes never changes; the order of confidences between samples may.

    Args:
        context: ``"running"``: quantiles among the samples of the fit, each sample alone.
            ``"batch"``: among the samples that are predicted together.

    Attributes:
        level: ``a + ln u``, the logarithm of the temperature of the most confident.
        slope: ``b``.

    Example:
        >>> logits = torch.randn(500, 3)
        >>> labels = (2 * logits).softmax(1).multinomial(1)[:, 0]  # a temperature of 1/2 is right
        >>> fitted = QuantileTemperature().fit(logits, labels)
        >>> bool((fitted.predict(logits).argmax(1) == logits.argmax(1)).all())
        True
    """

    level: float
    slope: float

    def __init__(self, context: str = "running") -> None:
        self.mode = checks.choice("context", context, ("running", "batch"))

    def _numbers(self, classes: int) -> int:
        return 2

    def _fit(self, z: Tensor, y: Tensor) -> None:
        self._unit = unit_of(z)
        z = z / self._unit
        self.context = Context(1, dtype=torch.float64, device=z.device).add(_confidence(z))
        q = self._quantile(z, self.context)

        def loss(values: Tensor) -> Tensor:
            scaled = z / _temperature(values[0], values[1], q)
            return cross_entropy(scaled, y) + values.square().sum() / (2 * len(z))

        level, self.slope = minimize(loss, z.new_zeros(2)).tolist()
        self.level = level + math.log(self._unit)

    def _predict(self, z: Tensor) -> Tensor:
        z = z / self._unit
        context = self.context
        if self.mode == "batch" and len(z):
            context = Context(1, dtype=torch.float64, device=z.device).add(_confidence(z))
        fitted = [self.level - math.log(self._unit), self.slope]
        level, slope = torch.tensor(fitted, dtype=z.dtype, device=z.device)
        return (z / _temperature(level, slope, self._quantile(z, context))).softmax(1)

    def _quantile(self, z: Tensor, context: Context) -> Tensor:
        return context.rank(_confidence(z), grounded=False) if len(z) else _confidence(z)


def _confidence(z: Tensor) -> Tensor:
    """Return the largest log-odds of each row, (N, 1): as many digits near 1 as elsewhere."""
    return log_odds(z).amax(1, keepdim=True)


def _temperature(level: Tensor, slope: Tensor, q: Tensor) -> Tensor:
    bound = math.log(HIGHEST)
    return (level + slope * (1 - q)).clamp(-bound, bound).exp()
