"""How far predicted probabilities can be believed."""

from qact.calibration.bins import Reliability
from qact.calibration.bootstrap import Interval, bootstrap_interval
from qact.calibration.brier import BrierParts, brier_decomposition
from qact.calibration.conformal import SplitConformal, conformal_p_values, conformal_quantile
from qact.calibration.context_weights import context_distance, context_weights
from qact.calibration.coverage import (
    Coverage,
    CoverageReport,
    coverage,
    coverage_by,
    coverage_report,
)
from qact.calibration.error import (
    adaptive_calibration_error,
    binary_calibration_error,
    calibration_error,
    reliability,
)
from qact.calibration.histogram_binning import HistogramBinning
from qact.calibration.intervals import ConformalIntervals, interval_coverage
from qact.calibration.isotonic import IsotonicCalibration
from qact.calibration.logistic import PlattScaling
from qact.calibration.metrics import accuracy, brier_score, negative_log_likelihood
from qact.calibration.quantile import QuantileClassifier
from qact.calibration.quantile_temperature import QuantileTemperature
from qact.calibration.quantprob import QuantProb
from qact.calibration.registry import create, entry, names, register
from qact.calibration.retrieval import mean_average_precision
from qact.calibration.risk_control import ConformalRiskControl, risk_control
from qact.calibration.selective import area_under_risk_coverage, risk_coverage
from qact.calibration.temperature import TemperatureScaling, VectorScaling

__all__ = [
    "BrierParts",
    "ConformalIntervals",
    "ConformalRiskControl",
    "Coverage",
    "CoverageReport",
    "HistogramBinning",
    "Interval",
    "IsotonicCalibration",
    "PlattScaling",
    "QuantProb",
    "QuantileClassifier",
    "QuantileTemperature",
    "Reliability",
    "SplitConformal",
    "TemperatureScaling",
    "VectorScaling",
    "accuracy",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "binary_calibration_error",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "calibration_error",
    "conformal_p_values",
    "conformal_quantile",
    "context_distance",
    "context_weights",
    "coverage",
    "coverage_by",
    "coverage_report",
    "create",
    "entry",
    "interval_coverage",
    "mean_average_precision",
    "names",
    "negative_log_likelihood",
    "register",
    "reliability",
    "risk_control",
    "risk_coverage",
]
