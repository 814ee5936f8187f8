"""Selective prediction: the risk of the most confident predictions, as a function of how many."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.calibration.checks import checked


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
    """Return :func:`risk_coverage` of any confidences (N,), larger being surer, and hits (N,).

    Minus a score of :mod:`qact.scores` is a confidence.

    Raises:
        ValueError: shapes do not fit, a confidence is NaN, or a hit is neither 0 nor 1.
    """
    checks.tensors(confidence=confidence, hit=hit)
    if confidence.ndim != 1 or not len(confidence) or hit.shape != confidence.shape:
        raise ValueError(
            f"confidence and hit must both be (N,) with N >= 1, got {tuple(confidence.shape)} and "
            f"{tuple(hit.shape)}"
        )
    hits = hit.detach().double()
    if confidence.isnan().any() or not ((hits == 0) | (hits == 1)).all():
        raise ValueError("confidence must not hold NaN, and hit 0 and 1 (or False and True) only")
    _, group, size = confidence.double().neg().unique(return_inverse=True, return_counts=True)
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


def area_under_generalized_risk(probs: Tensor, labels: Tensor) -> float:
    """Return the mean over ``k`` of ``errors among the k most confident / N``: AUGRC.

    Traub et al. 2024 (arXiv 2407.01032), eq. 6: the chance that a prediction is accepted *and*
    wrong, averaged over all shares that are accepted. Unlike AURC it does not count the errors of
    the most confident many times over. Half of the error rate for confidences that say nothing.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> area_under_generalized_risk(probs, torch.tensor([0, 1]))  # (0 + 1) / 2 / 2
        0.25
    """
    coverage, risk = risk_coverage(probs, labels)
    return (coverage * risk).mean().item()


def coverage_at_risk(confidence: Tensor, hit: Tensor, risk: float) -> float:
    """Return the largest share of most confident predictions whose error rate is at most ``risk``.

    0 if there is none. It is what these samples have, no bound for others: for that
    :func:`qact.calibration.risk_control`.

    Raises:
        ValueError: ``risk`` is no share, or as :func:`selective_risk`.

    Example:
        >>> import torch
        >>> coverage_at_risk(torch.tensor([4.0, 3, 2, 1]), torch.tensor([1, 1, 0, 1]), 0.25)
        1.0
    """
    checks.within("risk", risk, 0, 1 + 1e-12)
    coverage, found = selective_risk(confidence, hit)
    good = found <= risk + 1e-12
    return coverage[good][-1].item() if good.any() else 0.0


def risk_at_coverage(confidence: Tensor, hit: Tensor, coverage: float) -> float:
    """Return the error rate of the most confident share ``coverage``, at least one sample.

    Raises:
        ValueError: ``coverage`` is not in (0, 1], or as :func:`selective_risk`.

    Example:
        >>> import torch
        >>> risk_at_coverage(torch.tensor([4.0, 3, 2, 1]), torch.tensor([1, 1, 0, 0]), 0.75)
        0.3333333333333333
    """
    checks.number("coverage", coverage, "in (0, 1]", 0, 1)
    shares, found = selective_risk(confidence, hit)
    return found[int((shares < coverage - 1e-12).sum())].item()
