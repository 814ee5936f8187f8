"""How far predicted probabilities can be believed."""

from qact.calibration.bayesian_binning import BayesianBinning
from qact.calibration.beta import BetaCalibration
from qact.calibration.bins import Reliability
from qact.calibration.bootstrap import Interval, bootstrap_interval
from qact.calibration.brier import BrierParts, brier_decomposition
from qact.calibration.conformal import SplitConformal, conformal_p_values, conformal_quantile
from qact.calibration.context_weights import context_distance, context_weights
from qact.calibration.deferral import cascade, cascade_threshold, deferral_curve
from qact.calibration.density_aware import DensityAwareScaling
from qact.calibration.dirichlet import DirichletCalibration, MatrixScaling
from qact.calibration.error import (
    adaptive_calibration_error,
    binary_calibration_error,
    calibration_error,
    reliability,
)
from qact.calibration.histogram_binning import HistogramBinning
from qact.calibration.intervals import ConformalIntervals, interval_coverage
from qact.calibration.isotonic import IsotonicCalibration
from qact.calibration.kernel_error import (
    binary_smooth_calibration_error,
    kernel_calibration_error,
    smooth_calibration_error,
)
from qact.calibration.logistic import PlattScaling
from qact.calibration.metrics import accuracy, brier_score, negative_log_likelihood
from qact.calibration.prediction_sets import (
    Coverage,
    CoverageReport,
    coverage,
    coverage_by,
    coverage_report,
)
from qact.calibration.quantile import QuantileClassifier
from qact.calibration.quantile_temperature import QuantileTemperature
from qact.calibration.quantprob import QuantProb
from qact.calibration.registry import create, entry, names, register
from qact.calibration.retrieval import mean_average_precision
from qact.calibration.risk_control import ConformalRiskControl, risk_control
from qact.calibration.selective import (
    area_under_generalized_risk,
    area_under_risk_coverage,
    coverage_at_risk,
    risk_at_coverage,
    risk_coverage,
    selective_risk,
)
from qact.calibration.spline import SplineCalibration
from qact.calibration.temperature import TemperatureScaling, VectorScaling

__all__ = [
    "BayesianBinning",
    "BetaCalibration",
    "BrierParts",
    "ConformalIntervals",
    "ConformalRiskControl",
    "Coverage",
    "CoverageReport",
    "DensityAwareScaling",
    "DirichletCalibration",
    "HistogramBinning",
    "Interval",
    "IsotonicCalibration",
    "MatrixScaling",
    "PlattScaling",
    "QuantProb",
    "QuantileClassifier",
    "QuantileTemperature",
    "Reliability",
    "SplineCalibration",
    "SplitConformal",
    "TemperatureScaling",
    "VectorScaling",
    "accuracy",
    "adaptive_calibration_error",
    "area_under_generalized_risk",
    "area_under_risk_coverage",
    "binary_calibration_error",
    "binary_smooth_calibration_error",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "calibration_error",
    "cascade",
    "cascade_threshold",
    "conformal_p_values",
    "conformal_quantile",
    "context_distance",
    "context_weights",
    "coverage",
    "coverage_at_risk",
    "coverage_by",
    "coverage_report",
    "create",
    "deferral_curve",
    "entry",
    "interval_coverage",
    "kernel_calibration_error",
    "mean_average_precision",
    "names",
    "negative_log_likelihood",
    "register",
    "reliability",
    "risk_at_coverage",
    "risk_control",
    "risk_coverage",
    "selective_risk",
    "smooth_calibration_error",
]
