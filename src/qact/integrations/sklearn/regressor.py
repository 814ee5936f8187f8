"""For scikit-learn: prediction intervals around any regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact import checks, extras
from qact.calibration.intervals import ConformalIntervals

with extras.needed("qact.sklearn", "sklearn"):
    from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data


class ConformalRegressor(RegressorMixin, MetaEstimatorMixin, BaseEstimator):
    r"""A regressor whose predictions have intervals that hold a share ``1 - alpha`` of targets.

    A part of the data is held out from the fit of ``estimator``; the interval is ``f(x) -+ q s(x)``
    with the threshold of :class:`qact.calibration.ConformalIntervals`. With ``difficulty``, a
    regressor of the residuals' size, intervals are wider where those are (Lei et al. 2018, sec.
    5.2): it is fitted on half of what was held out.

    Args:
        estimator: any regressor of scikit-learn.
        alpha: the share of misses that is allowed.
        difficulty: None for intervals of one width.
        calibration_size: share of the samples that is held out.
        random_state: seed or generator of the splits.

    Attributes:
        estimator_, difficulty_: the fitted ones.
        quantile_: the threshold.

    Example:
        >>> from sklearn.linear_model import LinearRegression
        >>> random = np.random.default_rng(0)
        >>> X = random.normal(size=(400, 3))
        >>> y = X.sum(1) + random.normal(size=400)
        >>> model = ConformalRegressor(LinearRegression(), random_state=0).fit(X, y)
        >>> low, high = model.predict_interval(X).T
        >>> bool(((low <= y) & (y <= high)).mean() > 0.85)
        True
    """

    def __init__(
        self,
        estimator: Any,
        alpha: float = 0.1,
        *,
        difficulty: Any = None,
        calibration_size: float = 0.25,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.alpha = alpha
        self.difficulty = difficulty
        self.calibration_size = calibration_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> ConformalRegressor:
        """Fit on ``X`` (n_samples, n_features) and targets ``y`` (n_samples,)."""
        checks.number("calibration_size", self.calibration_size, "in (0, 1)", 0, 1 - 1e-12)
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=4)
        random = check_random_state(self.random_state)
        split = {"test_size": self.calibration_size, "random_state": random}
        train, held, y_train, y_held = train_test_split(X, y, **split)
        self.estimator_ = clone(self.estimator).fit(train, y_train)
        self.difficulty_ = None
        if self.difficulty is not None:
            part, held, y_part, y_held = train_test_split(
                held, y_held, test_size=0.5, random_state=random
            )
            sizes = np.abs(y_part - self.estimator_.predict(part))
            self.difficulty_ = clone(self.difficulty).fit(part, sizes)
            # What is predicted as easier than any easy sample was is not trusted.
            self.least_ = max(float(np.quantile(sizes, 0.05)), np.finfo(np.float64).tiny)
        intervals = ConformalIntervals(self.alpha)
        self.quantile_ = intervals.fit(torch.from_numpy(y_held), *self._read(held)).quantile
        return self

    def predict(self, X: Any) -> np.ndarray:
        """What the estimator predicts, (n_samples,)."""
        check_is_fitted(self)
        return self.estimator_.predict(validate_data(self, X, dtype=np.float64, reset=False))

    def predict_interval(self, X: Any) -> np.ndarray:
        """Lower and upper ends, (n_samples, 2); infinite if too few samples were held out."""
        check_is_fitted(self)
        intervals = ConformalIntervals(self.alpha)
        intervals.quantile = self.quantile_
        checked = validate_data(self, X, dtype=np.float64, reset=False)
        return intervals.predict(*self._read(checked)).numpy()

    def _read(self, X: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Predictions, and the scale of each."""
        predicted = torch.from_numpy(np.asarray(self.estimator_.predict(X), np.float64))
        if self.difficulty_ is None:
            return predicted, None
        return predicted, torch.from_numpy(np.maximum(self.difficulty_.predict(X), self.least_))
