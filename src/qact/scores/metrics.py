"""How well a score tells outliers from inliers: AUROC, average precision, FPR at 95% TPR."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qact import checks


@dataclass(frozen=True)
class Detection:
    """AUROC, AUPR of either side as the positive one, and the false positive rate at 95%."""

    auroc: float
    aupr_out: float
    aupr_in: float
    fpr95: float


def detection(inliers: Tensor, outliers: Tensor) -> Detection:
    """Return all of the measures below of scores (N,) and (M,), larger being more outlying.

    Example:
        >>> detection(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
        Detection(auroc=1.0, aupr_out=1.0, aupr_in=1.0, fpr95=0.0)
    """
    return Detection(
        auroc(inliers, outliers),
        average_precision(inliers, outliers),
        average_precision(-outliers, -inliers),
        fpr_at(inliers, outliers),
    )


def auroc(inliers: Tensor, outliers: Tensor) -> float:
    """Return the chance that an outlier scores higher than an inlier, ties counting half.

    Raises:
        ValueError: a set is empty, or holds NaN.

    Example:
        >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
        0.875
    """
    low, high = _checked(inliers, outliers)
    ordered = low.sort().values
    below = torch.searchsorted(ordered, high).double()
    upto = torch.searchsorted(ordered, high, right=True).double()
    return ((below + upto).mean() / (2 * len(low))).item()


def average_precision(negatives: Tensor, positives: Tensor) -> float:
    """Return ``sum_n (R_n - R_{n-1}) P_n`` over the distinct scores, as scikit-learn has it.

    Example:
        >>> round(average_precision(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])), 4)
        0.8333
    """
    low, high = _checked(negatives, positives)
    scores = torch.cat([high, low])
    truth = torch.cat([torch.ones_like(high), torch.zeros_like(low)])
    _, group, size = (-scores).unique(return_inverse=True, return_counts=True)
    hits = torch.bincount(group, truth, minlength=len(size))
    precision = hits.cumsum(0) / size.cumsum(0)
    return ((hits / len(high)) * precision).sum().item()


def fpr_at(inliers: Tensor, outliers: Tensor, tpr: float = 0.95) -> float:
    """Return the share of outliers taken for inliers where a share ``tpr`` of inliers is accepted.

    The convention of OpenOOD and of the papers since ODIN: inliers are the positive side. At the
    least threshold that accepts that share, "accepted" being at most the threshold.

    Example:
        >>> fpr_at(torch.arange(100.0), torch.tensor([10.0, 94.0, 95.0, 200.0]))
        0.5
    """
    low, high = _checked(inliers, outliers)
    checks.number("tpr", tpr, "in (0, 1]", 0, 1)
    need = int(torch.ceil(torch.tensor(tpr * len(low) - 1e-9, dtype=torch.float64)))
    return (high <= low.kthvalue(max(need, 1)).values).double().mean().item()


def _checked(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    checks.tensors(inliers=low, outliers=high)
    for name, value in (("the first", low), ("the second", high)):
        if value.ndim != 1 or not len(value):
            raise ValueError(f"{name} set of scores must be (N,), N >= 1, got {tuple(value.shape)}")
        if value.isnan().any():
            raise ValueError(f"{name} set of scores holds NaN, which has no rank")
    return low.detach().double(), high.detach().double()
