"""Spline calibration, one class against the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.calibration.calibrator import Calibrator, log_odds, row_normalised
from qact.calibration.registry import register


@register("spline", paper="Gupta et al. 2021, arXiv 2006.12800, sec. 4")
class SplineCalibration(Calibrator):
    """The slope of a natural cubic spline through the cumulative hits, per class, and normalise.

    Samples in the order of their score, the share ``t = i/n`` of the first ``i`` and the share
    ``h(t)`` of all that are hits among these: ``P(hit | score at t) = h'(t)``. A natural cubic
    spline with equidistant knots is fitted to ``h`` by least squares; a new score takes the slope
    at its own share. No bins, and no logits: only the order of scores counts. Scores beyond those
    of the fit take the slope at the end.

    Args:
        knots: of the spline, at least 3.

    Example:
        >>> logits = torch.stack([torch.linspace(-3, 3, 2000), torch.zeros(2000)], 1)
        >>> labels = 1 - (torch.arange(2000) % 10 < 6).long()  # 60% whatever the score
        >>> SplineCalibration().fit(logits, labels).predict(logits[1000]).round(decimals=2)
        tensor([0.6000, 0.4000], dtype=torch.float64)
    """

    def __init__(self, knots: int = 6) -> None:
        self.knots = checks.integer("knots", knots, 3)

    def _numbers(self, classes: int) -> int:
        return self.knots * classes

    def _fit(self, z: Tensor, y: Tensor) -> None:
        s = log_odds(z)
        share = (torch.arange(len(z), dtype=s.dtype, device=s.device) + 1) / len(z)
        basis, self._models = natural_splines(share, self.knots), []
        for c in range(z.shape[1]):
            values, group, size = s[:, c].unique(return_inverse=True, return_counts=True)
            # Samples of one score come in no order: each has the share of hits of its group.
            rate = torch.bincount(group, (y == c).double()) / size
            reached = rate.repeat_interleave(size).cumsum(0) / len(z)
            weights = torch.linalg.lstsq(basis, reached[:, None]).solution[:, 0]
            middle = (size.cumsum(0) - (size - 1) / 2).double() / len(z)  # of a group's shares
            slope = natural_splines(middle, self.knots, slope=True) @ weights
            self._models.append((values, slope.clamp(0, 1)))

    def _predict(self, z: Tensor) -> Tensor:
        s = log_odds(z)
        columns = [
            _interpolated(s[:, c].contiguous(), *model) for c, model in enumerate(self._models)
        ]
        return row_normalised(torch.stack(columns, 1))


def natural_splines(t: Tensor, knots: int, *, slope: bool = False) -> Tensor:
    """The natural cubic splines (N, knots) on [0, 1] of equidistant knots, or their derivatives.

    ``1, t``, and ``d_k - d_{K-1}`` with ``d_k = ((t - k)_+^3 - (t - k_K)_+^3) / (k_K - k)``
    (Hastie, Tibshirani and Friedman 2009, eq. 5.4 and 5.5): straight beyond the outer knots.
    """
    at = torch.linspace(0, 1, knots, dtype=t.dtype, device=t.device)
    raised = (t[:, None] - at).clamp(min=0)
    cubes = 3 * raised.square() if slope else raised.pow(3)
    d = (cubes[:, :-1] - cubes[:, -1:]) / (at[-1] - at[:-1])
    straight = [torch.zeros_like(t), torch.ones_like(t)] if slope else [torch.ones_like(t), t]
    return torch.cat([torch.stack(straight, 1), d[:, :-1] - d[:, -1:]], 1)


def _interpolated(s: Tensor, values: Tensor, heights: Tensor) -> Tensor:
    """Heights between sorted distinct values; those of the ends beyond."""
    right = torch.searchsorted(values, s).clamp(1, max(len(values) - 1, 1))
    if len(values) == 1:
        return heights.expand(len(s))
    low, high = values[right - 1], values[right]
    share = ((s - low) / (high - low)).clamp(0, 1)
    return heights[right - 1] + share * (heights[right] - heights[right - 1])
