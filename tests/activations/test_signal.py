"""Gains, the edge of chaos and the variance map, against closed forms and another quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch.nn import functional as F

import qact
from qact.activations import signal
from qact.activations.rectified import clipped_shifted_relu, clipped_soft_threshold


def gaussian(f):
    return quad(lambda z: f(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12)[0]


@pytest.mark.parametrize("q", [0.3, 1.0, 4.0])
def test_moments_agree_with_another_quadrature(q):
    root = math.sqrt(q)
    want = gaussian(lambda z: math.tanh(root * z) ** 2)
    assert signal.second_moment(torch.tanh, q) == pytest.approx(want, abs=1e-9)
    want = gaussian(lambda z: (1 - math.tanh(root * z) ** 2) ** 2)
    assert signal.slope_moment(torch.tanh, q) == pytest.approx(want, abs=1e-9)


def test_relu_is_at_the_edge_at_one_point():
    for q in (0.1, 1.0, 7.0):
        sigma_w, sigma_b = signal.edge_of_chaos(torch.relu, q)
        assert sigma_w == pytest.approx(math.sqrt(2), abs=1e-6)
        assert sigma_b == pytest.approx(0, abs=1e-3)
        assert signal.gain(torch.relu, math.sqrt(q)) == pytest.approx(math.sqrt(2), abs=1e-9)


def test_tanh_tends_to_one_and_zero():
    sigma_w, sigma_b = signal.edge_of_chaos(torch.tanh, 1e-8)
    assert sigma_w == pytest.approx(1, abs=1e-6)
    assert sigma_b == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["tanh", "gelu", "silu", "golu", "mish", "aptx", "elu", "softsign"]
)
def test_on_the_edge_chi_is_one_and_the_variance_stays(name):
    f = qact.activation(name).double()
    sigma_w, sigma_b = signal.edge_of_chaos(f, 0.8)
    assert sigma_w**2 * signal.slope_moment(f, 0.8) == pytest.approx(1, abs=1e-6)
    after = sigma_b**2 + sigma_w**2 * signal.second_moment(f, 0.8)
    assert after == pytest.approx(0.8, abs=1e-6)


def test_where_there_is_no_edge_it_says_so():
    with pytest.raises(ValueError, match=r"at q=1.0 .* need a bias of variance -5"):
        signal.edge_of_chaos(torch.sigmoid)
    with pytest.raises(ValueError, match="no gain"):
        signal.gain(torch.zeros_like)
    with pytest.raises(ValueError, match="q=0"):
        signal.second_moment(torch.tanh, 0)


@pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
def test_the_slope_of_the_variance_map(name):
    f = qact.activation(name).double()
    h = 1e-4
    want = (signal.second_moment(f, 1 + h) - signal.second_moment(f, 1 - h)) / (2 * h)
    assert signal.variance_slope(f, 1.3) == pytest.approx(1.69 * want, abs=1e-6)


@pytest.mark.parametrize("two_sided", [False, True])
def test_clipping_makes_sparse_functions_stable(two_sided):
    """At 85% zeros on the edge of chaos: unstable as they are, stable when clipped."""
    tau = signal.sparse_threshold(0.85, two_sided)
    function = clipped_soft_threshold if two_sided else clipped_shifted_relu
    slopes = []
    for m in (1e9, 1.0):
        f = lambda x, m=m: function(x, tau, m)  # noqa: E731
        sigma_w2 = 1 / signal.slope_moment(f)
        slopes.append(signal.variance_slope(f, math.sqrt(sigma_w2)))
    assert slopes[0] > 1
    assert slopes[1] < 1
    z = torch.randn(200_000)
    share = (function(z, tau, 1.0) == 0).float().mean().item()
    assert share == pytest.approx(0.85, abs=0.005)


def test_thresholds_of_the_table():
    assert signal.sparse_threshold(0.841345) == pytest.approx(1, abs=1e-5)
    assert signal.sparse_threshold(0.682689, True) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="share=1"):
        signal.sparse_threshold(1)


def test_leaky_relu_has_the_gain_of_torch():
    for slope in (0.01, 0.2):
        got = signal.gain(lambda x, s=slope: F.leaky_relu(x, s))
        assert got == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", slope), abs=1e-9)
