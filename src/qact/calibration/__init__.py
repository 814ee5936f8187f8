"""How far predicted probabilities can be believed."""

from qact.calibration.metrics import (
    Reliability,
    accuracy,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability,
)

__all__ = [
    "Reliability",
    "accuracy",
    "brier_score",
    "calibration_error",
    "negative_log_likelihood",
    "reliability",
]
