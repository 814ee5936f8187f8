"""Intervals around any regressor of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
from qact.sklearn import ConformalRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.utils.estimator_checks import parametrize_with_checks


@parametrize_with_checks([ConformalRegressor(LinearRegression(), random_state=0)])
def test_as_scikit_learn_wants_it(estimator, check):
    check(estimator)


def sample(n, seed):
    random = np.random.default_rng(seed)
    X = random.uniform(-1, 1, (n, 2))
    return X, X.sum(1) + (0.1 + 2 * (X[:, 0] > 0)) * random.normal(size=n)


@pytest.mark.parametrize("difficulty", [None, HistGradientBoostingRegressor(max_iter=60)])
def test_coverage_and_width(difficulty):
    model = ConformalRegressor(LinearRegression(), difficulty=difficulty, random_state=0)
    model.fit(*sample(12_000, 0))
    X, y = sample(3000, 1)
    low, high = model.predict_interval(X).T
    inside, width = (low <= y) & (y <= high), high - low
    assert inside.mean() == pytest.approx(0.9, abs=0.05)  # 1,500 held out
    hard = X[:, 0] > 0
    if difficulty is None:
        assert np.allclose(width, width[0])
        assert inside[~hard].mean() > 0.99 > 0.85 > inside[hard].mean()
    else:
        assert width[hard].mean() > 5 * width[~hard].mean()
        assert min(inside[hard].mean(), inside[~hard].mean()) > 0.84
    few = ConformalRegressor(LinearRegression(), alpha=0.01).fit(*sample(40, 2))
    assert np.isinf(few.predict_interval(X[:1])).all()
