"""Selective prediction: the risk of the most confident predictions, as a function of how many."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.calibration.checks import checked, checked_pairs


def risk_coverage(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return coverages ``k/N`` and the error rates of the ``k`` most confident, each (N,) float64.

    Confidence is the largest probability. Samples of equal confidence count as if in random order:
    each with the error rate of their group, so that the result does not depend on the order of the
    samples.

    Args:
        probs: class probabilities (N, C), any floating dtype.
        labels: true classes (N,), integer.

    Raises:
        ValueError, TypeError: as :func:`qact.calibration.reliability`.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
        >>> risk_coverage(probs, torch.tensor([0, 1, 0]))[1]
        tensor([0.0000, 0.5000, 0.3333], dtype=torch.float64)
    """
    wide, y = checked(probs, labels)
    confidence, predicted = wide.max(1)
    return selective_risk(confidence, predicted == y)


def selective_risk(confidence: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`risk_coverage`, of confidences (N,) in [0, 1] and hits (N,)."""
    confidence, hits = checked_pairs(confidence, hit)
    _, group, size = confidence.neg().unique(return_inverse=True, return_counts=True)
    rate = torch.bincount(group, 1 - hits) / size  # of each group of equal confidence
    k = torch.arange(1, len(hits) + 1, dtype=torch.float64, device=hits.device)
    return k / len(hits), rate.repeat_interleave(size).cumsum(0) / k


def area_under_risk_coverage(probs: Tensor, labels: Tensor) -> float:
    """Return the mean over ``k`` of the error rate of the ``k`` most confident: AURC.

    Geifman, Uziel and El-Yaniv 2019 (arXiv 1805.08206), section 3. 0 is perfect; predictions whose
    confidence says nothing have their error rate. It sees only the order of confidences.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> area_under_risk_coverage(probs, torch.tensor([0, 1]))  # (0 + 1/2) / 2
        0.25
    """
    return risk_coverage(probs, labels)[1].mean().item()
