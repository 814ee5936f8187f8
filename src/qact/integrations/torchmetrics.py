"""The metrics that torchmetrics lacks, with its API: ``update``, ``compute``, ``reset``, sync.

torchmetrics has the top-label error in bins of equal width (``MulticlassCalibrationError``),
accuracy and average precision; use those there. It has no marginal, adaptive, equal-mass or
debiased error, no likelihood or Brier parts, and no risk-coverage. These classes collect
probabilities and labels and call the functions of :mod:`qact.calibration` on all of them at once,
so the numbers are the same however the data were cut into batches or spread over processes.

Needs the extra ``torchmetrics``; the functions of :mod:`qact.calibration` do without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qact import calibration, extras

with extras.needed("the API of torchmetrics", "torchmetrics"):
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat


class _Pooled(Metric):
    """Collect (N, C) probabilities and (N,) labels; ``compute`` calls ``function`` on all."""

    is_differentiable = False
    full_state_update = False
    function: Callable[..., float]
    probs: list[Tensor]
    labels: list[Tensor]

    def __init__(self, options: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options = options
        self.add_state("probs", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add probabilities (N, C) and labels (N,) of a batch."""
        self.probs.append(preds.detach())
        self.labels.append(target.detach())

    def compute(self) -> Tensor:
        """Return the metric of everything since ``reset``, a scalar."""
        probs, labels = dim_zero_cat(self.probs), dim_zero_cat(self.labels)
        return torch.tensor(type(self).function(probs, labels, **self.options))


class CalibrationError(_Pooled):
    """:func:`qact.calibration.calibration_error`, any of its forms.

    Example:
        >>> metric = CalibrationError(kind="marginal", p=2, debias=True)
        >>> metric.update(torch.tensor([[0.75, 0.25]]).repeat(8, 1), torch.arange(8) // 6)
        >>> metric.compute()  # six of eight, as predicted
        tensor(0.)
    """

    higher_is_better = False
    function = staticmethod(calibration.calibration_error)

    def __init__(
        self,
        kind: str = "top_label",
        n_bins: int = 15,
        binning: str = "equal_width",
        p: int | str = 1,
        debias: bool = False,
        **kwargs: Any,
    ) -> None:
        options = {"kind": kind, "n_bins": n_bins, "binning": binning, "p": p, "debias": debias}
        super().__init__(options, **kwargs)


class AdaptiveCalibrationError(_Pooled):
    """:func:`qact.calibration.adaptive_calibration_error`.

    Example:
        >>> metric = AdaptiveCalibrationError(n_ranges=1)
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.1250)
    """

    higher_is_better = False
    function = staticmethod(calibration.adaptive_calibration_error)

    def __init__(self, n_ranges: int = 15, **kwargs: Any) -> None:
        super().__init__({"n_ranges": n_ranges}, **kwargs)


class NegativeLogLikelihood(_Pooled):
    """:func:`qact.calibration.negative_log_likelihood`.

    Example:
        >>> metric = NegativeLogLikelihood()
        >>> metric(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
        tensor(0.6931)
    """

    higher_is_better = False
    function = staticmethod(calibration.negative_log_likelihood)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__({}, **kwargs)


class BrierScore(_Pooled):
    """:func:`qact.calibration.brier_score`.

    Example:
        >>> metric = BrierScore()
        >>> metric(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([1, 0]))
        tensor(0.2500)
    """

    higher_is_better = False
    function = staticmethod(calibration.brier_score)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__({}, **kwargs)


class AreaUnderRiskCoverage(_Pooled):
    """:func:`qact.calibration.area_under_risk_coverage`.

    Example:
        >>> metric = AreaUnderRiskCoverage()
        >>> metric(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        tensor(0.2500)
    """

    higher_is_better = False
    function = staticmethod(calibration.area_under_risk_coverage)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__({}, **kwargs)
