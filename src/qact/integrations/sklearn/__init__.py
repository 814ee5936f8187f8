"""For scikit-learn: a classifier whose neurons know their context, intervals of any regressor.

Needs the extra ``sklearn``.
"""

from qact.integrations.sklearn.classifier import ShiftRobustClassifier
from qact.integrations.sklearn.regressor import ConformalRegressor

__all__ = ["ConformalRegressor", "ShiftRobustClassifier"]
