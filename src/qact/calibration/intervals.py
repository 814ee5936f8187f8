"""Prediction intervals of any regression: split conformal, scaled, or of quantiles.

Scores of a held-out pair, and the interval of a new sample with the threshold ``q`` of
:func:`qact.calibration.conformal_quantile`::

    absolute     |y - f|                   f -+ q           Lei et al. 2018, arXiv 1604.04173
    normalized   |y - f| / s               f -+ q s         the same, sec. 5.2
    quantile     max(lo - y, y - hi)       [lo - q, hi + q] Romano et al. 2019, arXiv 1905.03222
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.calibration.conformal import conformal_quantile


class ConformalIntervals:
    """Intervals that hold a share ``1 - alpha`` of exchangeable targets, on average.

    Args:
        alpha: the share of misses that is allowed, in (0, 1).

    Attributes:
        quantile: the fitted threshold; ``inf`` if samples are too few, and intervals with it.

    Example:
        >>> y = torch.arange(19.0)
        >>> fitted = ConformalIntervals(0.1).fit(y, torch.zeros(19))
        >>> fitted.predict(torch.tensor([5.0]))
        tensor([[-12.,  22.]])
    """

    quantile: float

    def __init__(self, alpha: float = 0.1) -> None:
        self.alpha = checks.number("alpha", alpha, "in (0, 1)", 0, 1 - 1e-12)

    def fit(
        self,
        targets: Tensor,
        predictions: Tensor,
        scale: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> ConformalIntervals:
        """Take the threshold from held-out targets (n,).

        Args:
            predictions: (n,) values, or (n, 2) lower and upper quantiles.
            scale: (n,) above 0, how hard each sample is; values only.
            weights: (n,) in [0, 1], see :mod:`qact.calibration.conformal`.

        Raises:
            ValueError: shapes do not fit, a scale is not above 0, or a value is not finite.
        """
        checks.tensors(targets=targets, predictions=predictions)
        if targets.ndim != 1 or not len(targets):
            raise ValueError(f"targets must be (n,), n >= 1, got {tuple(targets.shape)}")
        if len(predictions) != len(targets) or not torch.isfinite(targets).all():
            raise ValueError(
                f"targets must be finite, and predictions ({len(targets)},) or "
                f"({len(targets)}, 2), got {tuple(predictions.shape)}"
            )
        ends = self._ends(predictions, scale)
        y, width = targets.double(), 1.0 if scale is None else scale.double()
        scores = torch.maximum(ends[:, 0] - y, y - ends[:, 1]) / width
        self.quantile = conformal_quantile(scores, self.alpha, weights)
        return self

    def predict(self, predictions: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the intervals (N, 2), in the dtype of the predictions."""
        if not hasattr(self, "quantile"):
            raise RuntimeError("there is no threshold yet; call fit(targets, predictions)")
        by = self.quantile * (1.0 if scale is None else scale.double())
        ends = self._ends(predictions, scale)
        return torch.stack([ends[:, 0] - by, ends[:, 1] + by], 1).to(predictions.dtype)

    def _ends(self, predictions: Tensor, scale: Tensor | None) -> Tensor:
        wide = predictions.double()
        if wide.shape[1:] not in ((), (2,)) or (scale is not None and wide.ndim == 2):
            raise ValueError(
                f"predictions must be (N,), or (N, 2) without a scale, got {tuple(wide.shape)}"
            )
        if scale is not None and (scale.shape != wide.shape or not (scale > 0).all()):
            raise ValueError(f"scale must be {tuple(wide.shape)} above 0")
        if not torch.isfinite(wide).all():
            raise ValueError("predictions must be finite")
        return wide if wide.ndim == 2 else wide[:, None].expand(-1, 2)


def interval_coverage(intervals: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the share of targets (N,) in their intervals (N, 2), and the mean width.

    Example:
        >>> interval_coverage(torch.tensor([[0.0, 1.0], [0.0, 3.0]]), torch.tensor([2.0, 2.0]))
        (0.5, 2.0)
    """
    low, high = intervals.double().unbind(1)
    inside = (low <= targets) & (targets <= high)
    return inside.double().mean().item(), (high - low).mean().item()
