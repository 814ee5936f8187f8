"""Thresholds of alpha-entmax: Newton against sorting, the package entmax and exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.library import opcheck

from qact import weights
from qact.kernels import simplex

ALPHAS = (1.01, 1.2, 1.5, 1.8, 2.0, 2.5, 4.0)


def entmax(z: Tensor, alpha: float) -> Tensor:
    return torch.ops.qact.entmax(z, torch.tensor(alpha, dtype=z.dtype))


def backward(p: Tensor, grad: Tensor, alpha: float) -> Tensor:
    return torch.ops.qact.entmax_backward(p, grad, torch.tensor(alpha), False)[0]


def exact_sparsemax(z: list[float]) -> list[float]:
    """By the definition, in fractions."""
    ordered = sorted(map(Fraction, z), reverse=True)
    kept = [k for k in range(1, len(z) + 1) if 1 + k * ordered[k - 1] > sum(ordered[:k])][-1]
    tau = (sum(ordered[:kept]) - 1) / kept
    return [float(max(Fraction(v) - tau, Fraction(0))) for v in z]


finite = st.floats(-100, 100, width=32)
rows = st.lists(finite | st.integers(-3, 3).map(float), min_size=1, max_size=40)


@given(z=rows)
def test_sparsemax_is_exact(z):
    want = torch.tensor(exact_sparsemax(z), dtype=torch.float64)
    for dtype, close in ((torch.float64, 1e-12), (torch.float32, 3e-7)):
        got = entmax(torch.tensor([z], dtype=dtype), 2.0)[0]
        torch.testing.assert_close(got.double(), want, rtol=0, atol=close)


@given(z=rows, alpha=st.sampled_from(ALPHAS))
def test_a_threshold_stands_in_its_bracket_and_solves_its_equation(z, alpha):
    z = torch.tensor([z], dtype=torch.float64)
    x = simplex.relative(z, alpha)
    tau = simplex.threshold(x, alpha)
    assert -1 <= tau <= -(z.shape[1] ** (1 - alpha)) + 1e-15
    total = simplex.weights(x, tau, alpha).sum()
    torch.testing.assert_close(
        total, torch.ones_like(total), rtol=0, atol=1e-6 if alpha > 3 else 1e-9
    )
    if alpha in (1.5, 2.0):
        torch.testing.assert_close(tau, simplex.sorted_threshold(x, alpha), rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.1, 1.3, 1.5, 2.0])
@pytest.mark.parametrize(
    "rows",
    [
        lambda n: -(1.5 ** torch.arange(n)),  # the support shrinks by one value per Newton step
        lambda n: -(2.0 ** -torch.arange(n)),
        lambda n: torch.zeros(n),
        lambda n: torch.full((n,), 1e6),
        lambda n: torch.cat([torch.tensor([1e30]), -1e30 * torch.ones(n - 1)]),
        lambda n: torch.linspace(0, 1e-6, n),
    ],
)
def test_hard_rows(alpha, rows):
    for n in (1, 2, 60, 1000):
        z = rows(n).float()[None]
        want = simplex.plain(z.double(), alpha)
        torch.testing.assert_close(entmax(z, alpha).double(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_package_entmax_agrees(alpha, scale):
    theirs = pytest.importorskip("entmax")
    torch.manual_seed(0)
    z = (scale * torch.randn(20, 197, dtype=torch.float64)).requires_grad_()
    if alpha in (1.5, 2.0):
        want = {1.5: theirs.entmax15, 2.0: theirs.sparsemax}[alpha](z, dim=-1)
    else:
        want = theirs.entmax_bisect(z, alpha, n_iter=100)
    got = entmax(z, alpha)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    if alpha <= 2:
        g = torch.randn(20, 197, dtype=torch.float64)
        mine, other = (torch.autograd.grad(p, z, g)[0] for p in (got, want))
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [alpha for alpha in ALPHAS if alpha <= 2])
def test_float32_is_float64_rounded(alpha):
    """Whichever engine runs; forward and backward, many rows, so that threads share them."""
    torch.manual_seed(0)
    z, g = 3 * torch.randn(300, 50), torch.randn(300, 50)
    p, p64 = entmax(z, alpha), entmax(z.double(), alpha)
    rounding = 3e-7 + 2e-8 / (alpha - 1)  # of the threshold, to the power 1 / (alpha - 1)
    torch.testing.assert_close(p.double(), p64, rtol=0, atol=rounding)
    slope = simplex.slope(p64, g.double(), alpha)
    torch.testing.assert_close(backward(p, g, alpha).double(), slope, rtol=0, atol=1e-5)
    torch.testing.assert_close(backward(p64, g.double(), alpha), slope)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_and_spoilt_rows(alpha, dtype):
    inf, nan = torch.inf, torch.nan
    z = torch.tensor([[-inf, -inf], [0, -inf], [nan, 0], [inf, 0], [-inf, nan]], dtype=dtype)
    p = entmax(z, alpha)
    assert torch.equal(p[:2], torch.tensor([[0, 0], [1, 0]], dtype=dtype))
    assert p[2].isnan().all()
    assert p[3:].isnan().any(-1).all()
    assert torch.equal(
        backward(p[:2], torch.ones_like(p[:2]), alpha), torch.zeros(2, 2, dtype=dtype)
    )


def samples() -> list[tuple[Tensor, float]]:
    z = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    return [(z, 1.5), (z.double(), 2.0), (z.transpose(0, 1), 1.2)]


@pytest.mark.parametrize("k", range(3))
def test_operators_are_well_made(k):
    z, alpha = samples()[k]
    one, each = torch.tensor(alpha), torch.linspace(1.1, 1.9, z.shape[-2])[:, None]
    for of_rows in (one, each.to(z.dtype)):
        learnt = of_rows.clone().requires_grad_()
        opcheck(torch.ops.qact.entmax, (z.clone().requires_grad_(), learnt))
        p = torch.ops.qact.entmax(z, of_rows)
        for wanted in (True, False):
            opcheck(torch.ops.qact.entmax_backward, (p, torch.randn_like(z), of_rows, wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_may_have_an_alpha_of_its_own(dtype):
    """Weights, and both gradients, beside autograd through one Newton step."""
    torch.manual_seed(0)
    z = (2 * torch.randn(6, 5, 30, dtype=dtype)).requires_grad_()
    alpha = torch.linspace(1.1, 1.98, 6, dtype=dtype)[:, None, None].requires_grad_()
    with torch.no_grad():
        alpha[2], alpha[5] = 1.5, 2.0
    g = torch.randn_like(z)
    p = torch.ops.qact.entmax(z, alpha)
    wide = [t.detach().double().requires_grad_() for t in (z, alpha)]
    want = simplex.plain(*wide)
    close = 1e-6 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(p.double(), want, rtol=0, atol=close)
    got = torch.autograd.grad(p, (z, alpha), g)
    for mine, other in zip(got, torch.autograd.grad(want, wide, g.double()), strict=True):
        scale = other.abs().amax().item()
        torch.testing.assert_close(mine.double() / scale, other / scale, rtol=0, atol=10 * close)


def test_gradients_of_weights_and_of_alpha_twice():
    torch.manual_seed(0)
    z = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([[1.3], [1.5], [1.8]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(torch.ops.qact.entmax, (z, alpha))
    assert torch.autograd.gradgradcheck(torch.ops.qact.entmax, (z, alpha))


def test_only_the_weights_are_kept():
    z = torch.randn(8, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        p = entmax(z, 1.5)
    assert [t.data_ptr() for t in kept if t.numel() > 1] == [p.data_ptr()]


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2.0])
def test_vmap_over_a_gradient(alpha):
    z = torch.randn(5, 7, dtype=torch.float64)
    slope = torch.func.vmap(
        torch.func.grad(lambda z: weights.entmax(z, alpha=alpha).square().sum())
    )
    got = slope(z)
    z.requires_grad_()
    want = torch.autograd.grad(weights.entmax(z, alpha=alpha).square().sum(), z)[0]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("over", [1e-9, 1e-7, 1e-6, 1e-5, 1e-4])
def test_alpha_just_above_one_is_softmax_nearly(over):
    """By at most ``(alpha - 1) max |z - max z|^2``, of ``log(1 + e x) / e = x - e x^2 / 2``."""
    z = torch.randn(40, 7)
    reach = (z - z.amax(-1, keepdim=True)).square().max().item()
    p = weights.entmax(z, alpha=1 + over)
    assert p.dtype == torch.float32
    assert (p - z.softmax(-1)).abs().max() <= over * reach + 1e-6


@pytest.mark.parametrize("a", [-9.0, -17.0, -200.0])
def test_a_learnt_alpha_that_has_fallen_to_one(a):
    m = weights.LearntEntmax(2)
    torch.nn.init.constant_(m.a, a)
    z = torch.randn(3, 2, 4, 6, requires_grad=True)
    p = m(z)
    (p * torch.arange(6.0)).sum().backward()
    torch.testing.assert_close(p, z.softmax(-1), rtol=0, atol=2e-3)
    assert m.alpha.min() > 1
    assert z.grad.isfinite().all()
    assert m.a.grad.isfinite().all()
