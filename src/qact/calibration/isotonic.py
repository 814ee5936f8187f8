"""Isotonic regression, one class against the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.calibration.calibrator import Calibrator, log_odds, row_normalised
from qact.calibration.registry import register


@register("isotonic", paper="Zadrozny and Elkan 2002")
class IsotonicCalibration(Calibrator):
    """The monotone function of each class's log-odds that is nearest to the labels, normalised.

    Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass probability
    estimates". Between fitted points it is linear, outside constant. Frequencies of ``N`` samples
    are kept ``1 / (2 (N + 1))`` away from 0 and 1, so that a likelihood stays finite. Each class is
    monotone in its own score; the order of classes may change.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).repeat(250, 1)
        >>> labels = torch.tensor([0, 1] * 200 + [1, 0] * 50)  # right in 80%
        >>> IsotonicCalibration().fit(logits, labels).predict(logits[0]).round(decimals=2)
        tensor([0.8000, 0.2000], dtype=torch.float64)
    """

    def _numbers(self, classes: int) -> int:
        return 5 * classes

    def _fit(self, z: Tensor, y: Tensor) -> None:
        s, self._edge = log_odds(z), 0.5 / (len(z) + 1)
        self._points = [isotonic(s[:, c], (y == c).double()) for c in range(z.shape[1])]

    def _predict(self, z: Tensor) -> Tensor:
        s = log_odds(z)
        columns = [interpolated(s[:, c], *points) for c, points in enumerate(self._points)]
        return row_normalised(torch.stack(columns, 1).clamp(self._edge, 1 - self._edge))


def isotonic(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ``x`` in order and the non-decreasing fit of least squares to ``y``.

    Pool adjacent violators (Ayer et al. 1955): neighbouring blocks whose means decrease become one.

    Example:
        >>> isotonic(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0]))[1]
        tensor([0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    points, place, size = x.unique(return_inverse=True, return_counts=True)
    mean = torch.bincount(place, y.double()) / size
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many points
    for value, weight in zip(mean.tolist(), size.tolist(), strict=True):
        count = 1
        while blocks and blocks[-1][0] >= value:
            last, mass, points_in = blocks.pop()
            value = (last * mass + value * weight) / (mass + weight)
            weight, count = weight + mass, count + points_in
        blocks.append((value, weight, count))
    fit = [value for value, _, count in blocks for _ in range(count)]
    return points, torch.tensor(fit, dtype=torch.float64, device=x.device)


def interpolated(x: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """Return the piecewise linear function through the points, constant beyond them, at (N,)."""
    if len(points) == 1:
        return values.expand_as(x)
    right = torch.searchsorted(points, x.contiguous()).clamp(1, len(points) - 1)
    left = right - 1
    share = ((x - points[left]) / (points[right] - points[left])).clamp(0, 1)
    return torch.lerp(values[left], values[right], share)
