"""Logits to numbers: one estimator of each kind, in float64, for all rivals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qact.calibration import (
    accuracy,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)

METRICS = ("accuracy", "nll", "brier", "ece", "ece_debiased")
COSTS = ("ms_per_batch", "held_kib")  # of rows that have them: older ones have not
BINS = 15
COVERAGES = 20  # points of the risk-coverage curve

Row = dict[str, Any]


def measure(logits: Tensor, labels: Tensor) -> Row:
    """Return every metric of one test set, by one estimator each, computed in float64.

    ``ece`` is the plain top-label error, ``p=1``, 15 bins of equal width. ``ece_debiased`` is the
    estimator of Kumar et al. 2019, ``p=2``, 15 bins of equal mass, root of the estimate clipped at
    0. ``bins`` holds the reliability diagram over the bins of equal width; ``risk`` and ``aurc``
    are the error rates of the most confident.

    Example:
        >>> row = measure(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 1]))
        >>> row["accuracy"], round(row["ece"], 4)
        (1.0, 0.018)
    """
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the network's logits are not finite")
    probs = logits.double().softmax(1)
    bins = reliability(probs, labels, n_bins=BINS)
    return {
        "n": len(labels),
        "accuracy": accuracy(probs, labels),
        "nll": negative_log_likelihood(probs, labels),
        "brier": brier_score(probs, labels),
        "ece": calibration_error(probs, labels, n_bins=BINS),
        "ece_debiased": calibration_error(
            probs, labels, n_bins=BINS, binning="equal_mass", p=2, debias=True
        ),
        "bins": {
            "count": [int(count) for count in bins.count],
            "confidence": [round(float(value), 6) for value in bins.confidence],
            "accuracy": [round(float(value), 6) for value in bins.accuracy],
        },
        **_selective(probs, labels),
    }


def _selective(probs: Tensor, labels: Tensor) -> Row:
    """Return the error rates of the most confident 5%, 10%, ..., 100%, and the area under all."""
    risk = risk_coverage(probs, labels)[1]
    last = [max(1, round(len(risk) * k / COVERAGES)) - 1 for k in range(1, COVERAGES + 1)]
    return {"risk": [round(float(risk[i]), 6) for i in last], "aurc": risk.mean().item()}
