"""Kolmogorov-Arnold layers: their bases, their parameters, and that they fit a function."""

from __future__ import annotations

import pytest
import torch
from scipy.interpolate import BSpline
from torch import nn

from qact.activations import bases
from qact.activations.kan import AFKAN, BASES, COMBINATIONS, KAN

X = torch.linspace(-0.99, 0.99, 200, dtype=torch.float64)


def test_the_relu_basis_is_a_bump():
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([0.5, 3.0])
    middle = (low + high) / 2
    assert bases.relu_basis(middle, low, high).diagonal().tolist() == [1.0, 1.0]
    outside = torch.tensor([-1.1, -1.0, 0.5, 3.0, 9.0])
    bumps = bases.relu_basis(outside, low, high)
    assert bumps[[0, 1, 2, 3, 4], 0].tolist() == [0.0] * 5
    assert (bases.relu_basis(X.float(), low, high) <= 1).all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_splines_are_those_of_scipy(order):
    grid = 6
    got = bases.spline_basis(X, grid, order)
    assert got.shape == (200, grid + order)
    knots = torch.arange(-order, grid + order + 1).double() * 2 / grid - 1
    for k in range(grid + order):
        want = BSpline.basis_element(knots[k : k + order + 2].numpy(), extrapolate=False)(X)
        torch.testing.assert_close(got[:, k], torch.from_numpy(want).nan_to_num())
    torch.testing.assert_close(got.sum(-1), torch.ones_like(X))


def test_polynomials_and_waves():
    got = bases.chebyshev_basis(torch.atanh(X), 5)
    want = torch.stack([torch.cos(k * torch.acos(X)) for k in range(6)], -1)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    assert bases.fourier_basis(X, 3).shape == (200, 6)
    torch.testing.assert_close(bases.fourier_basis(X, 3)[:, 5], torch.sin(3 * X))
    assert bases.radial_basis(torch.tensor([2.0]), 5)[0, 4] == 1


@pytest.mark.parametrize("basis", BASES)
def test_a_layer_is_the_sum_over_its_edges(basis):
    layer = KAN(3, 2, basis).double()
    x = torch.randn(5, 3, dtype=torch.float64) / 2
    values = layer.features(x)
    want = sum(values[:, i] @ layer.coefficients[:, i].t() for i in range(3))
    want = want + nn.functional.silu(x) @ layer.base.weight.t()
    torch.testing.assert_close(layer(x), want)
    assert torch.autograd.gradcheck(layer, x.requires_grad_())


@pytest.mark.parametrize(
    ("basis", "size"), [("spline", 8), ("relu", 8), ("chebyshev", 4), ("radial", 5), ("fourier", 6)]
)
def test_parameters(basis, size):
    layer = KAN(4, 3, basis, base=False)
    own = 2 * size if basis == "relu" else 0
    assert sum(p.numel() for p in layer.parameters()) == 4 * 3 * size + own


def fitted(layer: nn.Module) -> float:
    x = torch.linspace(-1, 1, 256)[:, None]
    y = torch.sin(4 * x) + 0.5 * (x > 0.2)
    optimizer = torch.optim.Adam(layer.parameters(), 3e-2)
    for _ in range(200):
        loss = (layer(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item() / y.var().item()


@pytest.mark.parametrize("basis", BASES)
def test_a_layer_fits_a_function_of_one_variable(basis):
    assert fitted(KAN(1, 1, basis, grid=12, order=3 if basis != "chebyshev" else 8)) < 0.06


def test_af_kan_fits_too():
    model = nn.Sequential(nn.Linear(1, 8), AFKAN(8, 8), AFKAN(8, 1))
    assert fitted(model) < 0.15


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_af_kan_combines_both_ends(combination, activation):
    layer = AFKAN(4, 3, activation, combination).double()
    x = torch.rand(5, 4, dtype=torch.float64)
    f = nn.functional.silu if activation == "silu" else torch.relu
    a, b = f(x[..., None] - layer.low), f(layer.high - x[..., None])
    want = {
        "quad1": (a * b) ** 2,
        "quad2": a * b + a**2 + b**2,
        "sum": a + b,
        "prod": a * b,
        "sum_prod": a + b + a * b,
        "cubic1": (a + b) * (a**2 + b**2),
        "cubic2": (a * b) ** 3,
    }[combination]
    torch.testing.assert_close(layer.features(x), want)
    assert layer(x).shape == (5, 3)


def test_af_kan_with_relu_is_relu_kan_up_to_scale():
    layer = AFKAN(2, 2, "relu", "quad1", grid=5)
    x = torch.rand(9, 2)
    bumps = bases.relu_basis(x, layer.low, layer.high)
    scale = 16 / (layer.high - layer.low).pow(4)
    torch.testing.assert_close(layer.features(x) * scale, bumps)


def test_af_kan_is_about_as_large_as_a_linear_layer():
    size = sum(p.numel() for p in AFKAN(64, 32).parameters())
    assert 64 * 32 < size < 64 * 32 + 64 * 3 + 30


@pytest.mark.parametrize("features", [1, 2])
def test_afkan_of_one_or_two_features_fits_a_function(features):
    torch.manual_seed(0)
    x = torch.rand(400, features) * 2 - 1
    y = (3 * x).sin().sum(1, keepdim=True)
    assert AFKAN(features, 1)(x).std() > 0  # LayerNorm would leave a constant, or two signs
    model = nn.Sequential(AFKAN(features, 16), AFKAN(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * y.var()


@pytest.mark.parametrize("make", [lambda: KAN(3, 2, "wavelet"), lambda: AFKAN(3, 2, "swoosh")])
def test_unknown_names_are_refused(make):
    with pytest.raises(ValueError, match=r"'wavelet'|'swoosh'"):
        make()


def test_both_compile():
    for layer in (KAN(3, 2), AFKAN(3, 2)):
        x = torch.randn(4, 3)
        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x))
    assert torch.isfinite(layer(x)).all()
