"""Beta, Dirichlet, matrix, Bayesian binning, splines and density: identities and peers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from qact.calibration import (
    BayesianBinning,
    BetaCalibration,
    DensityAwareScaling,
    DirichletCalibration,
    MatrixScaling,
    SplineCalibration,
    TemperatureScaling,
)
from qact.calibration.spline import natural_splines


def case(n=4000, classes=3, seed=0, map_=None):
    """Logits, and labels drawn from the softmax of ``map_`` of them."""
    draw = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, classes, generator=draw, dtype=torch.float64)
    p = (z if map_ is None else map_(z)).softmax(1)
    return z, torch.multinomial(p, 1, generator=draw)[:, 0]


def test_beta_finds_the_map_that_made_the_labels():
    # Quantiles, and labels by the golden ratio's sequence: shares as asked, without a draw's error.
    place = torch.arange(60_000, dtype=torch.float64)
    s = 2 * torch.special.ndtri((place + 0.5) / len(place))
    log_p, log_q = torch.nn.functional.logsigmoid(s), torch.nn.functional.logsigmoid(-s)
    p = (0.5 * log_p - 1.5 * log_q + 0.3).sigmoid()
    y = (place * ((5**0.5 - 1) / 2) % 1 < p).long()
    model = BetaCalibration().fit(torch.stack([torch.zeros_like(s), s], 1), y)
    assert model.slopes[:, 1].tolist() == pytest.approx([0.5, 1.5], abs=0.01)
    assert model.bias[1].item() == pytest.approx(0.3, abs=0.01)
    assert model.slopes.flip(0)[:, 0].tolist() == pytest.approx(model.slopes[:, 1].tolist())
    assert model.predict(torch.stack([0 * s, s], 1))[:, 1].allclose(p, atol=0.002)


def test_matrix_finds_a_mixing_of_logits_and_dirichlet_of_log_probabilities():
    # Rows of one sum: what all classes share changes no softmax, before and after.
    M = torch.tensor([[1.0, 0.6, 0], [0, 1.6, 0], [0.5, 0, 1.1]], dtype=torch.float64) / 2
    z, y = case(15_000, map_=lambda z: z @ M.T)
    new, truth = case(8000, seed=1, map_=lambda z: z @ M.T)
    best = cross_entropy(new @ M.T, truth)
    for make in (MatrixScaling, DirichletCalibration):
        model = make(1e-4, 1e-4).fit(z, y)
        found = torch.nn.functional.nll_loss(model.predict(new).log(), truth)
        plain = torch.nn.functional.nll_loss(
            TemperatureScaling().fit(z, y).predict(new).log(), truth
        )
        assert found < best + 0.004 < plain
    held = MatrixScaling(1e3, 1e3).fit(z, y)  # held to the diagonal
    assert (held.weight - held.weight.diagonal().diag()).abs().max() < 1e-2
    assert held.bias.abs().max() < 1e-2


def test_bayesian_binning_is_the_average_by_evidence():
    z, y = case(300, classes=2)
    model = BayesianBinning().fit(z, y)
    for models in model._models:
        assert sum(float(w) for *_, w in models) == pytest.approx(1, abs=1e-4)
        assert all(((r > 0) & (r < 1)).all() for _, r, _ in models)
    # The evidence of one bin, by the Beta function: two samples of prior at the mean probability.
    special = pytest.importorskip("scipy.special")
    p, hit = z.softmax(1)[:, 1], (y == 1).double()
    s = z[:, 1] - z[:, 0]
    parts = BayesianBinning()._averaged(s, p, hit, range(1, 3))
    logs = []
    for size in (1, 2):
        order = s.argsort()
        total = 0.0
        for part in torch.tensor_split(order, size):
            a = 2 / size * float(p[part].mean())
            b = 2 / size - a
            m, n = float(hit[part].sum()), len(part)
            total += special.betaln(a + m, b + n - m) - special.betaln(a, b)
        logs.append(total)
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    found = {len(edges) + 1: float(w) for edges, _, w in parts}
    for size, w in zip((1, 2), weights, strict=True):
        assert found.get(size, 0.0) == pytest.approx(w, abs=1e-6)


def test_natural_splines_are_straight_at_the_ends_and_their_slopes_are_slopes():
    t = torch.linspace(-0.5, 1.5, 41, dtype=torch.float64)
    basis, slope = natural_splines(t, 5), natural_splines(t, 5, slope=True)
    assert basis.shape == (41, 5)
    step = 1e-6
    numeric = (natural_splines(t + step, 5) - natural_splines(t - step, 5)) / (2 * step)
    torch.testing.assert_close(slope, numeric, atol=1e-6, rtol=1e-6)
    for end in (t <= 0, t >= 1):
        torch.testing.assert_close(slope[end], slope[end][:1].expand_as(slope[end]))


@pytest.mark.own_seed  # a bound that most draws keep
def test_spline_sees_the_order_of_scores_alone():
    z, y = case(3000, classes=2, map_=lambda z: z / 3)
    model = SplineCalibration().fit(z, y)
    bent = torch.stack([torch.zeros(3000), (z[:, 1] - z[:, 0]).sinh()], 1).double()
    other = SplineCalibration().fit(bent, y)
    torch.testing.assert_close(model.predict(z), other.predict(bent), atol=1e-6, rtol=1e-6)
    new, _ = case(2000, classes=2, seed=1)
    assert (
        model.predict(new) - (new / 3).softmax(1)
    ).abs().mean() < 0.03  # flat at the ends, as natural splines are


@pytest.mark.own_seed  # a bound that most draws keep
def test_density_aware_scaling():
    draw = torch.Generator().manual_seed(0)
    d = torch.rand(8000, 2, generator=draw, dtype=torch.float64)
    z = 5 * torch.randn(8000, 4, generator=draw, dtype=torch.float64)
    S = 1 + 2 * d[:, 0]
    y = torch.multinomial((z / S[:, None]).softmax(1), 1, generator=draw)[:, 0]
    model = DensityAwareScaling().fit(z, y, d)
    assert model.weights.tolist() == pytest.approx([1, 2, 0], abs=0.25)
    assert torch.equal(model.predict(z, d).argmax(1), z.argmax(1))
    scaled = DensityAwareScaling().fit(3 * z, y, 10 * d)
    torch.testing.assert_close(scaled.predict(3 * z, 10 * d), model.predict(z, d))
    with pytest.raises(RuntimeError, match="no weights yet"):
        DensityAwareScaling().predict(z, d)
    with pytest.raises(ValueError, match=r"distances \(N,\) or \(N, L\), at least 0"):
        model.predict(z, -d)


@pytest.mark.parametrize("make", [BetaCalibration, MatrixScaling, DirichletCalibration])
def test_a_class_without_samples_and_separable_ones_stay_finite(make):
    z = torch.tensor([[9.0, 0.0, -1.0], [0.0, 9.0, -1.0]]).repeat(40, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = make().fit(z, torch.tensor([0, 1] * 40)).predict(z)
    assert torch.isfinite(p).all()
    assert p[0, 0] > 0.9
    assert math.isclose(float(p.sum()), 80)


def test_beta_against_netcal():
    scaling = pytest.importorskip("netcal.scaling")
    z, y = case(5000, classes=2, map_=lambda z: z / 2)
    theirs = scaling.BetaCalibration(method="mle")
    p = z.softmax(1)[:, 1].numpy()
    theirs.fit(p, y.numpy())
    ours = BetaCalibration().fit(z, y).predict(z)[:, 1]
    assert np.abs(theirs.transform(p).squeeze() - ours.numpy()).max() < 0.01
