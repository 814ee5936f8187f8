"""`ShiftRobustClassifier`: scikit-learn's own checks, and that adapting undoes what it should."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from qact.integrations.sklearn import ShiftRobustClassifier

SMALL = ShiftRobustClassifier((8,), max_iter=12, learning_rate=0.1, batch_size=64)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@parametrize_with_checks([SMALL])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_scikit_learn_checks_with_defaults():
    checks = list(estimator_checks_generator(ShiftRobustClassifier()))
    assert len(checks) > 40
    for estimator, check in checks:
        try:
            check(estimator)
        except pytest.skip.Exception:
            continue
        except Exception as error:
            if type(error).__name__ != "SkipTest":
                raise


@pytest.fixture(scope="module")
def wine():
    X, y = load_wine(return_X_y=True)
    return train_test_split(X, y, test_size=0.5, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def fitted(wine):
    X, _, y, _ = wine
    return ShiftRobustClassifier((16,), max_iter=40, random_state=0).fit(X, y)


def bent(X, like):
    """A different increasing map for every feature."""
    z = (X - like.mean(0)) / like.std(0)
    power = np.linspace(0.4, 2.5, X.shape[1])
    return np.sign(z) * np.abs(z) ** power * np.logspace(-2, 2, X.shape[1]) + 7


def test_adapting_undoes_increasing_maps(wine, fitted):
    X, X_test, _, y_test = wine
    plain = fitted.reset().score(X_test, y_test)
    broken = fitted.score(bent(X_test, X), y_test)
    repaired = fitted.adapt(bent(X_test, X)).score(bent(X_test, X), y_test)
    assert plain > 0.9
    assert repaired > 0.9 > 0.75 > broken


def test_adapting_starts_from_the_source_and_can_be_undone(wine, fitted):
    X, X_test, _, _ = wine
    before = fitted.reset().predict_proba(X_test)
    once = fitted.adapt(bent(X_test, X)).predict_proba(X_test)
    fitted.adapt(X_test * 100)
    assert np.array_equal(fitted.adapt(bent(X_test, X)).predict_proba(X_test), once)
    assert not np.allclose(once, before, atol=0.05)
    assert np.array_equal(fitted.reset().predict_proba(X_test), before)


def test_predictions_depend_on_their_own_sample_alone(wine, fitted):
    X, X_test, _, _ = wine
    fitted.adapt(bent(X_test, X))
    together = fitted.predict_proba(X_test)
    alone = np.vstack([fitted.predict_proba(x[None]) for x in X_test[:10]])
    np.testing.assert_allclose(alone, together[:10], atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-12)
    fitted.reset()


def test_a_large_prior_keeps_the_source(wine):
    X, X_test, y, _ = wine
    model = ShiftRobustClassifier((8,), max_iter=10, prior=1e9, random_state=0).fit(X, y)
    before = model.predict_proba(X_test)
    np.testing.assert_allclose(model.adapt(X_test).predict_proba(X_test), before, atol=0.02)
    near = model.set_params(prior=1e-3).adapt(X_test + 3).predict_proba(X_test + 3)
    np.testing.assert_allclose(near, model.adapt(X_test).predict_proba(X_test), atol=0.02)


def test_pickle_and_clone(wine, fitted):
    X, X_test, y, _ = wine
    fitted.adapt(X_test)
    twin = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(twin.predict_proba(X_test), fitted.predict_proba(X_test))
    assert np.array_equal(twin.reset().predict_proba(X_test), fitted.reset().predict_proba(X_test))
    again = clone(fitted).fit(X, y)
    assert np.array_equal(again.predict_proba(X_test), fitted.predict_proba(X_test))


def test_early_stopping_and_labels(wine):
    X, _, y, _ = wine
    names = np.array(["c", "a", "b"])[y]
    model = ShiftRobustClassifier((8,), max_iter=200, n_iter_no_change=2, random_state=0)
    model.fit(X, names)
    assert 2 < model.n_iter_ < 200
    assert list(model.classes_) == ["a", "b", "c"]
    assert set(model.predict(X)) <= {"a", "b", "c"}
    assert model.set_params(validation_fraction=0.0, max_iter=3).fit(X, y).n_iter_ == 3


def test_the_callers_generator_is_left_alone(wine):
    X, _, y, _ = wine
    state = torch.random.get_rng_state()
    SMALL.set_params(random_state=None).fit(X, y)
    assert torch.equal(state, torch.random.get_rng_state())


def test_in_cross_validation(wine):
    X, _, y, _ = wine
    assert cross_val_score(clone(SMALL).set_params(random_state=0), X, y, cv=2).mean() > 0.8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes=0"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"prior": 0}, "prior=0"),
        ({"n_iter_no_change": 0}, "n_iter_no_change=0"),
    ],
)
def test_bad_options(wine, options, match):
    X, _, y, _ = wine
    with pytest.raises(ValueError, match=match):
        ShiftRobustClassifier(**options).fit(X, y)
