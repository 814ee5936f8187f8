"""Temperature and vector scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qact.calibration.calibrator import Calibrator
from qact.calibration.minimize import minimize
from qact.calibration.registry import register

LOWEST, HIGHEST = 0.01, 100.0  # temperatures: beyond, the likelihood has no minimum worth a name


@register("temperature", paper="Guo et al. 2017, arXiv 1706.04599, sec. 4.2")
class TemperatureScaling(Calibrator):
    """``softmax(z / T)``, with ``T > 0`` of the least negative log-likelihood.

    The likelihood is convex in ``1/T``; its derivative ``mean(sum_c p_c z_c - z_y)`` is brought to
    zero by bisection, within ``0.01 <= T <= 100``. The order of the classes never changes.

    Attributes:
        temperature: the fitted ``T``.

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
        z = z - z.amax(1, keepdim=True)
        truth = z.gather(1, y[:, None])[:, 0]

        def slope(log_t: float) -> float:
            p = (z / torch.tensor(log_t).double().exp()).softmax(1)
            return ((p * z).sum(1) - truth).mean().item()

        low, high = torch.tensor([LOWEST, HIGHEST], dtype=torch.float64).log().tolist()
        if slope(low) <= 0 or slope(high) >= 0:  # the slope in 1/T: falls as T grows
            low = high = low if slope(low) <= 0 else high
            warnings.warn(
                f"the likelihood still improves at temperature {torch.tensor(low).exp():.4g}, the "
                "bound: predictions are all right, or carry no information",
                stacklevel=3,
            )
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) > 0 else (low, middle)
        self.temperature = float(torch.tensor((low + high) / 2, dtype=torch.float64).exp())

    def _predict(self, z: Tensor) -> Tensor:
        return (z / self.temperature).softmax(1)


@register("vector", paper="Guo et al. 2017, arXiv 1706.04599, sec. 4.2")
class VectorScaling(Calibrator):
    """``softmax(w * z + b)``, a scale and a shift per class. The order of classes may change.

    Fitted by likelihood with the penalty ``(|w - 1|^2 + |b|^2) / 2`` on its sum over samples (a
    unit Gaussian prior), so that it stays finite on separable or few samples.

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
        def loss(values: Tensor) -> Tensor:
            w, b = values
            prior = ((w - 1).square().sum() + b.square().sum()) / 2
            return cross_entropy(w * z + b, y) + prior / len(z)

        start = torch.stack([torch.ones_like(z[0]), torch.zeros_like(z[0])])
        self.weight, self.bias = minimize(loss, start)

    def _predict(self, z: Tensor) -> Tensor:
        return (self.weight * z + self.bias).softmax(1)
