"""What a rank becomes: the named maps, steps, tables, and what is no level."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from qact import levels

N = torch.tensor([[100.0]], dtype=torch.float64)
RANKS = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)[None]


def test_uniform_is_the_rank():
    assert torch.equal(levels.parse("uniform")(RANKS, N), RANKS)


def test_normal_is_the_quantile_of_scipy():
    got = levels.parse("normal")(RANKS, N)
    np.testing.assert_allclose(got, norm.ppf(RANKS), atol=1e-9)


def test_normal_scores_are_finite_and_symmetric_at_the_ends():
    for n in (1, 100, 10**6):
        ends = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        low, high = levels.parse("normal")(ends, torch.tensor([[float(n)]]))[0].tolist()
        assert np.isfinite([low, high]).all()
        assert low == pytest.approx(-high)
        # Further out than any value of the context: its own rank is at most 1 - 1 / (2 n).
        assert high > norm.ppf(1 - 0.5 / n)


@pytest.mark.parametrize("name", levels.ACTIVATIONS)
def test_named_activations_read_the_normal_score(name):
    got = levels.parse(name)(RANKS, N)
    want = levels.ACTIVATIONS[name](torch.from_numpy(norm.ppf(RANKS)))
    torch.testing.assert_close(got, want)
    module = {
        "relu": "ReLU",
        "gelu": "GELU",
        "silu": "SiLU",
        "mish": "Mish",
        "elu": "ELU",
        "selu": "SELU",
        "leaky_relu": "LeakyReLU",
        "softplus": "Softplus",
        "hardswish": "Hardswish",
        "tanh": "Tanh",
        "sigmoid": "Sigmoid",
    }[name]
    torch.testing.assert_close(got, getattr(torch.nn, module)()(torch.from_numpy(norm.ppf(RANKS))))


def test_any_function_is_a_level():
    got = levels.parse(torch.square)(RANKS, N)
    torch.testing.assert_close(got, torch.from_numpy(norm.ppf(RANKS) ** 2))
    made = levels.Level(levels.uniform_score, torch.exp)
    assert levels.parse(made) is made


def test_weight_and_bias_act_on_the_score():
    weight, bias = torch.tensor([2.0]), torch.tensor([-0.5])
    level = levels.parse("relu").affine(weight, bias)
    want = np.maximum(2 * norm.ppf(RANKS) - 0.5, 0)
    np.testing.assert_allclose(level(RANKS, N), want, atol=1e-9)
    plain = levels.parse("relu").affine(None, None)
    assert torch.equal(plain(RANKS, N), levels.parse("relu")(RANKS, N))


@given(st.integers(1, 200), st.integers(1, 500))
def test_steps_count_the_levels_that_a_rank_has_reached(n, size):
    # A rank of k / size has reached level i / (n + 1) when i * size <= k * (n + 1).
    k = torch.arange(size + 1)
    want = (k * (n + 1) // size).clamp(max=n).double() / (n + 1)
    for dtype in (torch.float32, torch.float64):
        ranks = (k.double() / size).to(dtype)[None]
        got = levels.steps(n)(ranks, N)
        torch.testing.assert_close(got[0].double(), want, atol=1e-6, rtol=0)


def test_the_derivative_of_steps_is_that_of_the_rank():
    u = RANKS.clone().requires_grad_()
    levels.steps(7)(u, N).sum().backward()
    assert torch.equal(u.grad, torch.ones_like(u))


@given(st.integers(2, 40))
def test_a_table_is_that_of_numpy(knots):
    values = torch.randn(3, knots, dtype=torch.float64)
    u = torch.rand(3, 50, dtype=torch.float64)
    got = levels.table(values)(u, N)
    for c in range(3):
        want = np.interp(u[c], np.linspace(0, 1, knots), values[c])
        np.testing.assert_allclose(got[c], want, atol=1e-12)


def test_a_table_holds_its_ends_beyond_the_unit_interval():
    values = torch.tensor([[1.0, 2.0, 5.0]])
    got = levels.table(values)(torch.tensor([[-0.1, 0.0, 1.0, 1.1]]), N)
    assert got.tolist() == [[1.0, 1.0, 5.0, 5.0]]


@pytest.mark.parametrize("bad", [0, -1, 2.5, "7", None, True])
def test_bad_numbers_of_steps(bad):
    with pytest.raises((ValueError, TypeError), match=re.escape(repr(bad))):
        levels.steps(bad)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 4)])
def test_bad_tables(shape):
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        levels.table(torch.zeros(shape))


@pytest.mark.parametrize("bad", ["rellu", "", None, 3, ["relu"]])
def test_what_is_no_level(bad):
    with pytest.raises(ValueError, match=re.escape(repr(bad))):
        levels.parse(bad)


@pytest.mark.parametrize("name", ["uniform", "steps", "normal", *levels.ACTIVATIONS])
def test_levels_can_be_pickled(name):
    level = pickle.loads(pickle.dumps(levels.parse(name)))
    assert torch.equal(level(RANKS, N), levels.parse(name)(RANKS, N))
