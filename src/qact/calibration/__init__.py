"""How far predicted probabilities can be believed."""

from qact.calibration.bins import Reliability
from qact.calibration.bootstrap import Interval, bootstrap_interval
from qact.calibration.brier import BrierParts, brier_decomposition
from qact.calibration.error import (
    adaptive_calibration_error,
    binary_calibration_error,
    calibration_error,
    reliability,
)
from qact.calibration.metrics import accuracy, brier_score, negative_log_likelihood
from qact.calibration.retrieval import mean_average_precision
from qact.calibration.selective import area_under_risk_coverage, risk_coverage

__all__ = [
    "BrierParts",
    "Interval",
    "Reliability",
    "accuracy",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "binary_calibration_error",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "calibration_error",
    "mean_average_precision",
    "negative_log_likelihood",
    "reliability",
    "risk_coverage",
]
